"""kill -9 of the czar's server around the swap: the live index is wholly the old one or wholly the new one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from airflow_reindex.director.mysql.client import is_transient
from sandbox.catalog.catalog import CatalogSpec
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import Changing, note
from tests.support.build import Build, Columns, assert_same, waits_for_lock
from tests.support.wait import wait_until

KILLS = 20
#: Of these so many while the swap waits for a reader, before it may begin.
WAITING = 3
SPEC = CatalogSpec(database="sky_swap", rows=5_000, chunks=10)
#: Kills at any moment of the whole publish.
KILLS_ANYWHERE = 10
#: Seconds from the moment when the swap may begin, and from the beginning of the publish, to the swap: a first guess.
SWAP_AT, SWAP_ANYWHERE_AT = 0.006, 0.03


class Aim:
    """
    Random moments around the swap. It takes as long as the machine lets it, so each outcome corrects the aim.

    :param chance: source of chance.
    :param at: the first guess, in seconds.
    """

    def __init__(self, chance: Random, at: float) -> None:
        self._chance, self._at = chance, at
        self.outcomes = Counter[str]()

    def moment(self) -> float:
        """When to strike."""
        return self._chance.uniform(0.3, 1.7) * self._at

    def correct(self, outcome: str) -> None:
        """Later after an old index, earlier after a new one."""
        self.outcomes[outcome] += 1
        self._at *= 1.35 if outcome == "old" else 1 / 1.35

    def __str__(self) -> str:
        return f"{self.outcomes['old']} ended old, {self.outcomes['new']} new, last aimed at {self._at * 1000:.1f} ms"


def strike(run: Build, sky: Changing, delay: float | None) -> BaseException | None:
    """
    Publish while a reader holds the live index; let go of it and kill the server a moment later.

    :param run: a build that is loaded.
    :param sky: its catalog.
    :param delay: that moment, in seconds; ``None`` to kill while the swap still waits.
    :returns: the error that the publish ended with.
    """
    czar, ended = run.sandbox.czar, threading.Event()
    pid = czar.pid
    assert pid is not None
    with ThreadPoolExecutor(1) as pool:
        reader = czar.connect()
        reader.autocommit(False)
        reader.query(f"SELECT 1 FROM {sky.live} LIMIT 1")
        reader.store_result()
        publish = pool.submit(run.publish)
        publish.add_done_callback(lambda _: ended.set())
        wait_until(lambda: waits_for_lock(run.sandbox, "RENAME TABLE") or ended.is_set())
        assert not ended.is_set()
        if delay is not None:
            reader.rollback()
            strike_at = time.perf_counter() + delay
            while time.perf_counter() < strike_at:
                pass
        os.kill(pid, signal.SIGKILL)
        czar.kill()
        reader.close()
        return publish.exception()


def strike_anywhere(run: Build, delay: float) -> BaseException | None:
    """Publish, and kill the server a moment after the beginning; the error that the publish ended with."""
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(run.publish)
        time.sleep(delay)
        run.sandbox.czar.kill()
        return publish.exception()


def judge(run: Build, sky: Changing, old: Columns, error: BaseException | None) -> str:
    """After a kill: whether the live index is the old or the new one, wholly; then publish to the end."""
    assert error is None or is_transient(error), error
    run.sandbox.czar.start()
    found = run.index()
    outcome = "new" if found[2][0] == sky.rows[2][0] else "old"
    assert_same(found, sky.rows if outcome == "new" else old)
    assert outcome == "new" or error is not None
    sky.check_table()
    sky.check_alone()
    assert run.publish().rows == len(sky.rows[0])
    assert_same(run.index(), sky.rows)
    sky.check_done(run)
    sky.check_files()
    return outcome


@pytest.fixture
def sky(shaky: Sandbox, shaky_build: Callable[..., Build]) -> Changing:
    """A small catalog with an index."""
    made = Changing(shaky, SPEC)
    shaky_build(SPEC.database, run_id="before", rebuild=1).run()
    return made


def loaded(sky: Changing, build: Callable[..., Build], number: int) -> Build:
    """A build after a change of all rows, ready to be published."""
    sky.change(sky.placement, number)
    run = build(SPEC.database, run_id=f"kill-{number}", rebuild=1)
    run.to_load()
    run.load_all()
    return run


def test_swap_survives_kills_of_the_czar(sky: Changing, shaky_build: Callable[..., Build], chance: Random) -> None:
    aim, began = Aim(chance, SWAP_AT), time.monotonic()
    for number in range(1, KILLS + 1):
        old, run = sky.rows, loaded(sky, shaky_build, number)
        delay = aim.moment() if number > WAITING else None
        outcome = judge(run, sky, old, strike(run, sky, delay))
        if delay is None:
            # While the swap waits it has not begun.
            assert outcome == "old"
        else:
            aim.correct(outcome)
    note(f"{WAITING} kills before the swap; {KILLS - WAITING} around it: {aim}; {time.monotonic() - began:.1f} s")


def test_publish_survives_kills_of_the_czar(sky: Changing, shaky_build: Callable[..., Build], chance: Random) -> None:
    aim, began = Aim(chance, SWAP_ANYWHERE_AT), time.monotonic()
    for number in range(1, KILLS_ANYWHERE + 1):
        old, run = sky.rows, loaded(sky, shaky_build, number)
        aim.correct(judge(run, sky, old, strike_anywhere(run, aim.moment())))
    note(f"{KILLS_ANYWHERE} kills of a publish: {aim}; {time.monotonic() - began:.1f} s")
