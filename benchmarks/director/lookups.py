"""How readers fare: look-ups in the new table against Qserv's own, and while a throttled build runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.director.measure import run_sql
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.servers.cluster import INDEX_DATABASE, Sandbox

SIZES = (1, 10, 100, 1000)
ROUNDS, BLOCK = 12, 25


@dataclass(frozen=True)
class Latency:
    """
    How long look-ups took.

    :param keys: keys of each.
    :param side: the table, or what else went on.
    :param median: seconds.
    :param p99: seconds.
    :param count: how many there were.
    """

    keys: int
    side: str
    median: float
    p99: float
    count: int

    @classmethod
    def of(cls, keys: int, side: str, seconds: list[float]) -> Latency:
        """
        Sum up.

        :param keys: keys of each look-up.
        :param side: what is measured.
        :param seconds: one a look-up.
        """
        return cls(keys, side, float(np.median(seconds)), float(np.percentile(seconds, 99)), len(seconds))


def compare(sandbox: Sandbox, spec: CatalogSpec, tables: dict[str, str]) -> list[Latency]:
    """
    Look up the same keys in several tables, in turn, block by block; the buffer pool must have room for all of them.

    :param sandbox: the servers.
    :param spec: the catalog.
    :param tables: quoted table by side.
    :returns: latencies by number of keys and side.
    """
    keys, random = truth(spec).index_rows()[0], np.random.default_rng(3)
    for table in tables.values():
        # Every page of it into the buffer pool: drawn keys would take long to touch them all.
        run_sql(sandbox, f"SELECT SUM(`subChunkId`) FROM {table} FORCE INDEX (`objectId`)")  # noqa: S608 - the benchmark's own names
    result = []
    with contextlib.closing(sandbox.czar.connect()) as connection, connection.cursor() as cursor:
        for size in SIZES:
            taken: dict[str, list[float]] = {side: [] for side in tables}
            # The first round warms both and does not count.
            for number in range(ROUNDS + 1):
                wanted = [random.choice(keys, size, replace=False).tolist() for _ in range(BLOCK)]
                order = list(tables.items())
                for side, table in order if number % 2 else reversed(order):
                    seconds = [_look_up(cursor, table, some) for some in wanted]
                    taken[side] += seconds if number else []
            result += [Latency.of(size, side, seconds) for side, seconds in taken.items()]
    return result


def _look_up(cursor: Any, table: str, keys: list[int]) -> float:
    where = f"= {keys[0]}" if len(keys) == 1 else f"IN ({','.join(map(str, keys))})"
    began = time.perf_counter()
    cursor.execute(f"SELECT `chunkId`, `subChunkId` FROM {table} WHERE `objectId` {where}")  # noqa: S608 - the benchmark's own names
    found = cursor.fetchall()
    spent = time.perf_counter() - began
    assert len(found) == len(keys)
    return spent


class Readers:
    """
    Look-ups of single keys from a process of its own, a thousand a second at most, until it is told to stop.

    :param sandbox: the servers.
    :param table: the table's name in the index database.
    :param keys: the keys to draw from.
    """

    def __init__(self, sandbox: Sandbox, table: str, keys: npt.NDArray[Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        self._ours, theirs = context.Pipe()
        arguments = (str(sandbox.root), f"`{INDEX_DATABASE}`.`{table}`", keys, theirs)
        self._process = context.Process(target=_read, args=arguments, daemon=True)
        self._process.start()
        self._ours.recv()

    def measure(self, seconds: float) -> list[float]:
        """
        Read for a while.

        :param seconds: how long.
        :returns: the time of each look-up.
        """
        self._ours.send(seconds)
        return list(self._ours.recv())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _read(root: str, table: str, keys: npt.NDArray[Any], pipe: Any) -> None:
    from pathlib import Path

    sandbox, random = Sandbox.load(Path(root)), np.random.default_rng(5)
    with contextlib.closing(sandbox.czar.connect()) as connection, connection.cursor() as cursor:
        pipe.send("ready")
        while True:
            end, taken = time.monotonic() + pipe.recv(), []
            while time.monotonic() < end:
                taken.append(_look_up(cursor, table, [int(keys[random.integers(len(keys))])]))
                time.sleep(0.001)
            pipe.send(taken)
