"""What a measurement takes note of: time, processor time of clients and servers, bytes written."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from sandbox.servers.cluster import Sandbox

#: What makes the server write dirty pages at once, and for how long at most to wait for it.
FLUSH = {
    "innodb_io_capacity_max": 40_000,
    "innodb_io_capacity": 20_000,
    "innodb_max_dirty_pages_pct_lwm": 0,
    "innodb_max_dirty_pages_pct": 0,
}
SETTLE_SECONDS = 120.0
#: Builds of fewer rows owe nothing that is worth a wait: the server flushes once a second.
SETTLE_ROWS = 100_000


@dataclass
class Measured:
    """
    One side of a comparison.

    :param side: ``qserv``, ``project``, ``ceiling``, ...
    :param rows: rows of the index.
    :param chunks: chunks that they lie in.
    :param seconds: from the first statement to the end.
    :param client_cpu: processor seconds of this process and its children.
    :param server_cpu: processor seconds of all MariaDB servers.
    :param written: bytes that the czar's server wrote: pages and redo log.
    :param steps: seconds of each step.
    :param index_bytes: the index's size on disk.
    :param staged_bytes: bytes of the sorted runs.
    :param task_bytes: peak memory of a task's process.
    """

    side: str
    rows: int
    chunks: int
    seconds: float = 0.0
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    written: int = 0
    steps: dict[str, float] = field(default_factory=dict)
    index_bytes: int = 0
    staged_bytes: int = 0
    task_bytes: int = 0

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds

    def a_row(self, value: float) -> float:
        """
        A figure for one row.

        :param value: the figure for all.
        """
        return value / self.rows

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """
        Take the time of a step.

        :param name: its name.
        """
        began = time.perf_counter()
        yield
        self.steps[name] = time.perf_counter() - began


def settle(sandbox: Sandbox) -> None:
    """
    Wait until the czar's server has written what it owes: each side pays for its own pages, and for all of them.

    :param sandbox: the servers.
    """
    kept = {name: value for name, value in run_sql(sandbox, "SHOW GLOBAL VARIABLES LIKE 'innodb_%'") if name in FLUSH}
    # The capacity's maximum bounds the capacity: it goes up first and down last.
    run_sql(sandbox, *(f"SET GLOBAL {name} = {value}" for name, value in FLUSH.items()))
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        counters = status(sandbox)
        if not counters["Innodb_buffer_pool_pages_dirty"] and not counters["Innodb_history_list_length"]:
            break
        time.sleep(0.2)
    run_sql(sandbox, *(f"SET GLOBAL {name} = {kept[name]}" for name in reversed(FLUSH)))


@contextlib.contextmanager
def measuring(sandbox: Sandbox, side: str, rows: int, chunks: int, *, alone: bool = True) -> Iterator[Measured]:
    """
    Measure a block of work.

    :param sandbox: the servers.
    :param side: what is measured.
    :param rows: rows of the index.
    :param chunks: chunks that they lie in.
    :param alone: whether nobody else is measured on these servers meanwhile.
    :yields: what becomes of it, complete when the block has ended.
    """
    settled = alone and rows >= SETTLE_ROWS
    if settled:
        settle(sandbox)
    result = Measured(side, rows, chunks)
    servers, client, written = _server_cpu(sandbox), _client_cpu(), _written(sandbox)
    began = time.perf_counter()
    yield result
    result.seconds = time.perf_counter() - began
    result.client_cpu = _client_cpu() - client
    if settled:
        settle(sandbox)
    result.server_cpu = _server_cpu(sandbox) - servers
    result.written = _written(sandbox) - written


def status(sandbox: Sandbox) -> dict[str, int]:
    """
    The counters of the czar's server.

    :param sandbox: the servers.
    """
    with contextlib.closing(sandbox.czar.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb%'")
        return {name: int(value) for name, value in cursor.fetchall() if value.isdigit()}


def run_sql(sandbox: Sandbox, *statements: str) -> list[tuple[Any, ...]]:
    """
    Run statements on the czar's server.

    :param sandbox: the servers.
    :param statements: each taken literally.
    :returns: the rows of the last one.
    """
    rows: list[tuple[Any, ...]] = []
    with contextlib.closing(sandbox.czar.connect()) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            rows = list(cursor.fetchall())
    return rows


def _written(sandbox: Sandbox) -> int:
    counters = status(sandbox)
    # Redo does not count as written data in MariaDB 10.11; the log's position does.
    return counters["Innodb_data_written"] + counters["Innodb_lsn_current"]


def _server_cpu(sandbox: Sandbox) -> float:
    times = [psutil.Process(server.pid).cpu_times() for server in sandbox.servers if server.pid]
    return float(sum(time.user + time.system for time in times))


def _client_cpu() -> float:
    # Children count when they have ended; the pool's processes that live are asked one by one.
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = [child for child in psutil.Process().children(recursive=True) if "mariadbd" not in child.name()]
    total = sum(part.ru_utime + part.ru_stime for part in used)
    for child in alive:
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)
