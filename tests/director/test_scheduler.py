"""Extract tasks side by side: no worker gets too many connections, and none waits for good."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.director.coordination import claim, scheduler
from airflow_reindex.director.coordination.scheduler import GroupScheduler
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.extract import task as extraction
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.mysql.client import Connect, session
from sandbox.catalog.catalog import CatalogSpec
from sandbox.fixtures import CatalogFactory
from tests.support.build import Build, Factory, count_reads, run_sql
from tests.support.claims import assert_published
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("clean")


class Counted:
    """
    Connections to workers, counted.

    :param run: the build, whose connections these replace.
    """

    def __init__(self, run: Build) -> None:
        self.now, self.most = Counter[str](), Counter[str]()
        self._lock = threading.Lock()
        workers = {name: self._counted(name, connect) for name, connect in run.servers.workers.items()}
        run.servers = replace(run.servers, workers=workers)

    def _counted(self, name: str, connect: Connect) -> Connect:
        def close(connection: Any) -> None:
            with self._lock:
                self.now[name] -= 1
            type(connection).close(connection)

        def opened() -> Any:
            with self._lock:
                self.now[name] += 1
                self.most[name] = max(self.most[name], self.now[name])
            connection = connect()
            connection.close = lambda: close(connection)
            return connection

        return opened


@contextmanager
def occupied(run: Build, *workers: str) -> Iterator[None]:
    """Another build has all connections of some workers."""
    with ExitStack() as stack:
        for worker in workers:
            for _ in range(run.servers.worker_connections):
                other = GroupScheduler(stack.enter_context(session(run.servers.czar)), "other build", 4)
                assert other.acquire_slot(worker)
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that look for work all the time."""
    monkeypatch.setattr(extraction, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(extraction, "LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_tasks_that_turn_to_each_others_worker_do_not_wait_for_good(
    catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=6_000, chunks=24, replicas=2, seed=31), fresh=True)
    run = build(made.spec.database)
    counted = Counted(run)
    run.servers = replace(run.servers, worker_connections=1)
    run.rows_per_task = 12_000
    plan = run.plan()
    two = {group[0].workers[0]: group for group in plan.groups}
    assert len(two) == 2
    for worker, group in two.items():
        # Both tasks read a chunk of their own worker, and turn to the other's for the next one.
        table = f"`{made.spec.database}`.`Object_{group[1].chunk}`"
        run_sql(run.sandbox.workers[worker], f"DROP TABLE {table}")
    meet, real = threading.Barrier(2, timeout=180), extractor.stream
    firsts = {group[0].chunk for group in two.values()}

    def stream(source: Any, given: Plan, chunk: int) -> Iterator[Any]:
        if chunk in firsts:
            meet.wait()
        yield from real(source, given, chunk)

    monkeypatch.setattr(extractor, "stream", stream)
    assert run.extract_in_slots(2) == []
    assert set(counted.most.values()) == {1}
    assert set(counted.now.values()) == {0}
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    run.complete()
    run.finish()
    assert_published(run, made)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("connections", [1, 2])
def test_no_worker_gets_more_connections_than_it_may(catalog: CatalogFactory, build: Factory, connections: int) -> None:
    made = catalog(CatalogSpec(rows=40_000, chunks=60, replicas=2, seed=32), fresh=True)
    run = build(made.spec.database)
    counted = Counted(run)
    run.servers = replace(run.servers, worker_connections=connections)
    run.rows_per_task = 5_000
    plan = run.plan()
    counted.most.clear()
    for group in plan.groups:
        # Each task turns to another worker in its midst.
        table = f"`{made.spec.database}`.`Object_{group[len(group) // 2].chunk}`"
        run_sql(run.sandbox.workers[group[0].workers[0]], f"DROP TABLE {table}")
    assert run.extract_in_slots(5) == []
    assert set(counted.most.values()) <= {*range(1, connections + 1)}
    assert set(counted.now.values()) == {0}
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    run.complete()
    run.finish()
    assert_published(run, made)


@pytest.mark.usefixtures("impatient")
def test_a_group_that_fails_is_not_read_again_and_again_by_a_task_that_waits(
    catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=4_000, chunks=10, empty_chunks=0, seed=33))
    run = build(made.spec.database)
    run.rows_per_task = 10**6
    plan = run.plan()
    own, other = plan.groups
    reads, real = count_reads(monkeypatch), extractor.stream
    there = [chunk.chunk for chunk in other]

    def stream(source: Any, given: Plan, chunk: int) -> Any:
        rows = real(source, given, chunk)
        if chunk in there:
            raise DataError("nothing of this group can be read")
        return rows

    monkeypatch.setattr(extractor, "stream", stream)
    with occupied(run, own[0].workers[0]):
        task = threading.Thread(target=run.extract, args=(0,), daemon=True)
        task.start()
        wait_until(lambda: len(reads) == len(there))
        # Twenty more looks for work.
        task.join(timeout=1)
        assert sorted(reads) == sorted(there), "once each"
    task.join(timeout=180)
    assert run.staged_chunks() == sorted(chunk.chunk for chunk in own)
    with pytest.raises(DataError, match="chunks failed"):
        run.extract(1)
    monkeypatch.setattr(extractor, "stream", real)
    run.extract(1)
    run.complete()
    run.finish()
    assert_published(run, made)


def test_a_task_whose_group_another_one_has_read_has_nothing_to_do(
    catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=4_000, chunks=10, seed=33))
    run = build(made.spec.database)
    run.rows_per_task = 10**6
    plan = run.plan()
    reads = count_reads(monkeypatch)
    with occupied(run, plan.groups[0][0].workers[0]):
        task = threading.Thread(target=run.extract, args=(0,), daemon=True)
        task.start()
        wait_until(lambda: set(run.staged_chunks()) == {chunk.chunk for chunk in plan.groups[1]})
    task.join(timeout=180)
    run.extract(1)
    assert sorted(reads) == run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)


def test_a_task_whose_network_is_cut_keeps_its_locks_for_minutes_only(
    catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "SILENT_SECONDS", 2)
    monkeypatch.setattr(scheduler, "STAY_SECONDS", 0.2)
    run = build(catalog(CatalogSpec(rows=100, chunks=2)).spec.database)
    with ExitStack() as stack:
        cut, lively, other = (
            GroupScheduler(stack.enter_context(session(run.servers.czar)), "plan", 1) for _ in range(3)
        )
        assert cut.begin(0, "worker-1")
        assert lively.begin(1, "worker-2")
        assert not other.begin(0, "worker-1")

        def freed() -> bool:
            lively.stay()
            return other.begin(0, "worker-1")

        wait_until(freed)
        other.end(0)
        assert not other.begin(1, "worker-2")
        cut.stay()  # its connection is gone, and it goes on with what it reads


def test_a_task_that_reads_says_so(catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = []
    monkeypatch.setattr(GroupScheduler, "stay", lambda _: said.append(time.monotonic()))
    run = build(catalog(CatalogSpec(rows=400, chunks=4)).spec.database)
    for number in range(len(run.plan().groups)):
        run.extract(number)
    assert len(said) >= 4


def test_a_lost_claim_ends_the_wait_for_a_worker(
    catalog: CatalogFactory, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.1)
    made = catalog(CatalogSpec(rows=4_000, chunks=10, seed=33))
    run = build(made.spec.database)
    plan = run.plan()
    errors: list[str] = []

    def wait() -> None:
        try:
            run.extract(0)
        except Exception as error:
            errors.append(type(error).__name__)

    with occupied(run, *run.servers.workers):
        task = threading.Thread(target=wait, daemon=True)
        task.start()
        task.join(timeout=0.5)
        assert task.is_alive()
        other = build(made.spec.database, run_id="other", force_takeover=1)
        other.plan()
        task.join(timeout=60)
        assert not task.is_alive()
    assert errors == ["ClaimLostError"]
    assert plan.token != other.plan_made.token
