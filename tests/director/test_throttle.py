"""Limits that change while a build runs, slots of those who work, and connections to workers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import MySQLdb
import pytest

from airflow_reindex.core.claims import Keeper
from airflow_reindex.core.failures import ClaimLostError, ConflictError
from airflow_reindex.director.coordination import claim, throttle
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.scheduler import GroupScheduler
from airflow_reindex.director.coordination.throttle import ConnectionSlots, Pace, Watch
from airflow_reindex.director.extract import extractor, task
from airflow_reindex.director.model.limits import Limits
from airflow_reindex.director.model.records import read_split
from airflow_reindex.director.mysql.client import Connection, prepare, session
from sandbox.catalog.catalog import CatalogSpec
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, Factory
from tests.support.claims import assert_published
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def two(sandbox: Sandbox) -> Iterator[tuple[Connection, Connection]]:
    """Two connections to the czar."""
    one, other = sandbox.czar.connect(), sandbox.czar.connect()
    yield prepare(one), prepare(other)
    for connection in (one, other):
        with contextlib.suppress(MySQLdb.Error):
            connection.close()


def test_slots_are_counted_and_come_free(two: tuple[Connection, Connection]) -> None:
    one, other = ConnectionSlots(two[0], "mark"), ConnectionSlots(two[1], "mark")
    assert one.acquire(1)
    assert one.acquire(1)
    assert not other.acquire(1)
    assert other.acquire(2)
    assert one.count() == 2
    assert not other.acquire(1), "a slot beyond the limit is released"
    one.release()
    assert other.acquire(1)
    two[1].close()
    # A connection that is gone holds no slot, once the server has noticed.
    wait_until(lambda: one.acquire(1))
    assert ConnectionSlots(two[0], "another mark").count() == 0


def test_a_worker_is_asked_for_so_many_connections(two: tuple[Connection, Connection]) -> None:
    one, other = GroupScheduler(two[0], "token", 1), GroupScheduler(two[1], "token", 1)
    assert one.begin(1, "w1")
    assert one.acquire_slot("w1")
    assert not other.begin(1, "w2"), "the group is being read"
    assert not other.begin(2, "w1"), "the worker has no connection to spare"
    assert other.begin(2, "w2")
    one.end(1)
    other.end(2)
    assert other.begin(1, "w1")


def test_a_pace_is_kept_and_follows_the_limit() -> None:
    watch = Watch()
    pace = Pace(watch)
    began = time.monotonic()
    pace.add(10**9)
    assert time.monotonic() - began < 1, "without a limit nothing waits"
    watch.set(Limits(1_000), 2)
    pace.add(200)
    assert time.monotonic() - began >= 0.35, "half of the rate is this one's"
    threading.Timer(0.3, watch.set, (Limits(), 1)).start()
    began = time.monotonic()
    pace.add(10**6)
    assert time.monotonic() - began < 5, "a limit that is lifted ends the wait"


def test_blocks_are_small_when_throttled() -> None:
    watch = Watch()
    assert watch.block_rows == 0
    watch.set(Limits(10**6), 1)
    assert throttle.LEAST_BLOCK_ROWS <= watch.block_rows <= 10**5


def loaded(run: Build) -> int:
    """Rows that are committed."""
    split = read_split(run.folder)
    with session(run.servers.czar) as czar:
        done = IndexBuild(czar, run.servers.tables(run.request), run.plan_made.token, split.build).markers()
    return sum(found.rows for found in done.values())


@pytest.fixture
def large(catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A build of 60,000 rows in slices of 2,000, about to load."""
    monkeypatch.setattr(Build, "slice_rows", 2_000)
    run = build(catalog(CatalogSpec(rows=60_000, chunks=20, seed=21)).spec.database)
    run.rows_per_task = 10**6
    run.to_load()
    return run


def limit(run: Build, limits: Limits) -> None:
    """Change the limits, as the throttle's DAG does."""
    with session(run.servers.czar) as czar:
        claim.set_limits(czar, run.servers.tables(run.request), limits)


def test_a_running_load_heeds_new_limits_within_seconds(large: Build) -> None:
    limit(large, Limits(2_000, 1))
    threads = [threading.Thread(target=large.load, args=(n,)) for n in range(len(read_split(large.folder).ranges))]
    for thread in threads:
        thread.start()
    time.sleep(4)
    before = loaded(large)
    assert before <= 16_000, "at most 2,000 rows a second, and what was under way"
    limit(large, Limits())
    for thread in threads:
        thread.join(timeout=180)
    assert not any(thread.is_alive() for thread in threads), "at full speed it takes a second"
    assert loaded(large) == 60_000
    large.publish()
    large.finish()


def test_a_wait_ends_at_once_when_the_claim_is_lost() -> None:
    beats = iter([True, True])
    keeper = Keeper(lambda: next(beats, False), lambda: ClaimLostError("gone"), every=0.2)
    watch = Watch(keeper)
    watch.set(Limits(1_000), 1)
    began = time.monotonic()
    with keeper, pytest.raises(ClaimLostError):
        Pace(watch).add(10**6)
    assert time.monotonic() - began < 5


def test_nobody_builds(sandbox: Sandbox, build: Factory) -> None:
    run = build("nothing")
    with pytest.raises(ConflictError, match="nobody builds index"):
        limit(run, Limits(1))


def test_a_slow_worker_does_not_hold_up_the_other(
    catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=40_000, chunks=40, seed=22))
    run = build(made.spec.database)
    run.rows_per_task = 5_000
    run.servers = replace(run.servers, worker_connections=1)
    monkeypatch.setattr(task, "WAIT_SECONDS", 0.05)
    plan = run.plan()
    slow = plan.groups[0][0].workers[0]
    real, order, busy = extractor.stream, [], dict.fromkeys(run.servers.workers, 0)
    most, lock = dict(busy), threading.Lock()

    def stream(source: Any, given: Any, chunk: int) -> Any:
        (worker,) = [c.workers[0] for group in plan.groups for c in group if c.chunk == chunk]
        with lock:
            order.append(worker)
            busy[worker] += 1
            most[worker] = max(most[worker], busy[worker])
        if worker == slow:
            # Longer than all else that a chunk takes, on a busy machine too.
            time.sleep(0.15)
        try:
            yield from real(source, given, chunk)
        finally:
            with lock:
                busy[worker] -= 1

    monkeypatch.setattr(extractor, "stream", stream)
    assert run.extract_in_slots(2) == []
    assert set(most.values()) == {1}, "one connection a worker at a time"
    others = [i for i, worker in enumerate(order) if worker != slow]
    assert others[-1] < len(order) * 0.8, "the fast worker was done long before the slow one"
    assert sorted(run.staged_chunks()) == sorted(c.chunk for group in plan.groups for c in group), "each chunk once"
    run.complete()
    run.finish()
    assert_published(run, made)
