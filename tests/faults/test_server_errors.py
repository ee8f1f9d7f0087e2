"""Errors that busy servers really give: each is told as one that a retry may mend, and nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from threading import Thread
from typing import Any

import MySQLdb
import pytest

from airflow_reindex.core.failures import ClaimLostError, DataError, TransientError
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.scheduler import GroupScheduler
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.load import loader
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql import client, integer_reader, session_settings
from airflow_reindex.director.mysql.client import describe, is_transient, session, transaction
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate, truth
from sandbox.servers.cluster import Sandbox
from sandbox.servers.servers import MariaDBServer
from tests.support.build import Build, assert_same, clean_czar, run_sql
from tests.support.claims import before_first_call
from tests.support.wait import wait_until

WORKER = "worker-1"
SPEC = CatalogSpec(database="sky_errors", rows=5_000, chunks=12, empty_chunks=0)


@pytest.fixture(scope="module")
def sky(shaky: Sandbox) -> CatalogSummary:
    """The catalog of these tests."""
    return generate(shaky, SPEC)


@pytest.fixture
def run(sky: CatalogSummary, shaky: Sandbox, shaky_build: Callable[..., Build]) -> Iterator[Build]:
    """A build of the catalog; nothing is left of it."""
    with clean_czar(shaky):
        yield shaky_build(SPEC.database, rebuild=1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for a second."""
    waits = {"lock_wait_timeout", "innodb_lock_wait_timeout"}
    shorter = [replace(one, value="1") if one.name in waits else one for one in session_settings.SETTINGS]
    monkeypatch.setattr(session_settings, "SETTINGS", shorter)


@pytest.fixture
def rival(shaky: Sandbox) -> Iterator[Any]:
    """A session of somebody else on the czar's server, outside of autocommit; its locks end with the test."""
    with closing(shaky.czar.connect()) as connection:
        connection.autocommit(False)
        yield connection


def fails(step: Callable[..., object], *values: int) -> str:
    """Do a step that fails in a way that a retry may mend; the error as it is told."""
    with pytest.raises((TransientError, MySQLdb.Error)) as caught:
        step(*values)
    assert is_transient(caught.value), caught.value
    return describe(caught.value)


def finish(run: Build) -> None:
    """Publish, and the proof: the index is complete, and nothing else is left."""
    assert run.publish().rows == SPEC.rows
    run.finish()
    assert_same(run.index(), truth(SPEC).index_rows())
    assert run.working_tables() == []


def publish_all(run: Build) -> None:
    """What follows the extraction, and the proof."""
    run.split()
    run.load_all()
    finish(run)


def group_of(run: Build, worker: str) -> int:
    """The group that a worker serves."""
    return next(i for i, chunks in enumerate(run.plan_made.groups) if chunks[0].workers == (worker,))


def working_table(run: Build, kind: str) -> str:
    """The only working table of a kind."""
    (name,) = [name for name in run.working_tables() if name.startswith(f"{kind}_")]
    return f"airflow_reindex.`{name}`"


def kill_one(server: MariaDBServer, statement: str = "%") -> None:
    """Kill the connections of the product's account that are at a statement."""
    theirs = f"USER = 'reindex' AND COALESCE(INFO, '') LIKE '{statement}'"
    found = run_sql(server, f"SELECT ID FROM information_schema.PROCESSLIST WHERE {theirs}")
    for (number,) in found:
        # It may have ended by itself.
        with suppress(MySQLdb.Error):
            run_sql(server, f"KILL {number}")


@pytest.mark.usefixtures("one_group_a_worker", "impatient")
def test_locked_chunk_table(run: Build, shaky: Sandbox) -> None:
    plan = run.plan()
    mine = group_of(run, WORKER)
    locked = plan.groups[mine][1].chunk
    with closing(shaky.workers[WORKER].connect()) as holder:
        holder.query(f"LOCK TABLES `{SPEC.database}`.`Object_{locked}` WRITE")
        told = fails(run.extract, mine)
    assert "errno: 1205" in told
    (failure,) = run.failures("extract")
    assert (failure.chunk, failure.worker) == (locked, WORKER)
    assert "Lock wait timeout exceeded" in failure.message
    # The others are staged, and not read again.
    assert len(run.staged_chunks()) == len(plan.groups[mine]) - 1
    run.extract_all()
    publish_all(run)


@pytest.mark.usefixtures("impatient")
def test_locked_row_of_the_shadow_table(run: Build, rival: Any) -> None:
    run.to_load()
    key = int(truth(SPEC).index_rows()[0][SPEC.rows // 2])
    rival.query(f"INSERT INTO {working_table(run, 'shadow')} VALUES ({key}, 1, 1)")
    assert "errno: 1205" in fails(run.load, 0)
    assert run_sql(run.sandbox.czar, f"SELECT COUNT(*) FROM {working_table(run, 'slices')}") == [(0,)]
    rival.rollback()
    run.load_all()
    finish(run)


@pytest.mark.usefixtures("impatient")
def test_locked_shadow_table_while_publishing(run: Build, rival: Any) -> None:
    run.to_load()
    run.load_all()
    rival.query(f"SELECT * FROM {working_table(run, 'shadow')} LIMIT 1")
    rival.store_result()
    assert "errno: 1205" in fails(run.publish)
    rival.rollback()
    finish(run)


def test_deadlock(run: Build, rival: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run.to_load()
    shadow, slices = working_table(run, "shadow"), working_table(run, "slices")
    keys = truth(SPEC).index_rows()[0]
    # The server sacrifices the one that has changed least: the load has one row so far.
    rows = ", ".join(f"({int(key)}, 1, 1)" for key in keys[:500])
    rival.query(f"INSERT INTO {shadow} VALUES {rows}")

    def wait_for_the_load() -> None:
        rival.query(f"INSERT INTO {slices} VALUES (0, 0, 0, 0, 0, 0, NOW(6))")

    waiting = Thread(target=wait_for_the_load)

    def cross() -> None:
        waiting.start()
        waits = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
        wait_until(lambda: run_sql(run.sandbox.czar, waits) != [(0,)])

    before_first_call(monkeypatch, loader, "load_file", cross)
    assert "errno: 1213" in fails(run.load, 0)
    waiting.join()
    rival.rollback()
    run.load_all()
    finish(run)


class Full:
    """A server all of whose connections are taken."""

    def __init__(self, server: MariaDBServer) -> None:
        self._server, self._stack = server, ExitStack()

    def __enter__(self) -> Full:
        ((self._most,),) = run_sql(self._server, "SELECT @@GLOBAL.max_connections")
        run_sql(self._server, "SET GLOBAL max_connections = 10")
        with suppress(MySQLdb.OperationalError):
            while True:
                self._stack.enter_context(closing(self._server.connect("reindex")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        # One more than the limit may come: the administrator.
        run_sql(self._server, f"SET GLOBAL max_connections = {self._most}")


@pytest.mark.usefixtures("one_group_a_worker")
def test_worker_without_a_connection_to_spare(run: Build, shaky: Sandbox) -> None:
    plan = run.plan()
    mine = group_of(run, WORKER)
    with Full(shaky.workers[WORKER]):
        assert "errno: 1040" in fails(run.extract, mine)
    failures = run.failures("extract")
    assert [(f.chunk, f.worker) for f in failures] == [(chunk.chunk, WORKER) for chunk in plan.groups[mine]]
    said = "Failed to connect to the worker service: error: Too many connections, errno: 1040"
    assert {f.message for f in failures} == {said}
    run.extract_all()
    assert run.failures("extract") == []
    publish_all(run)


def test_czar_without_a_connection_to_spare(run: Build, shaky: Sandbox) -> None:
    run.plan()
    with Full(shaky.czar):
        assert "errno: 1040" in fails(run.extract, 0)
    run.extract_all()
    run.split()
    with Full(shaky.czar):
        assert "errno: 1040" in fails(run.load, 0)
    run.load_all()
    with Full(shaky.czar):
        assert "errno: 1040" in fails(run.publish)
    finish(run)


@pytest.mark.parametrize("way", ["socket", "driver"])
@pytest.mark.usefixtures("one_group_a_worker")
def test_killed_connection_to_a_worker(run: Build, shaky: Sandbox, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "driver":
        monkeypatch.setattr(integer_reader, "usable", lambda _: False)
    plan = run.plan()
    mine = group_of(run, WORKER)
    before_first_call(monkeypatch, extractor, "stream", lambda: kill_one(shaky.workers[WORKER]))
    told = fails(run.extract, mine)
    assert any(f"errno: {number}" in told for number in (2006, 2013, 1927))
    # The next chunk is read over a new connection.
    assert [(f.chunk, f.worker) for f in run.failures("extract")] == [(plan.groups[mine][0].chunk, WORKER)]
    run.extract_all()
    assert run.failures("extract") == []
    publish_all(run)


def test_killed_connections_to_the_czar(run: Build, shaky: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = run.plan()
    before_first_call(monkeypatch, extractor, "stream", lambda: kill_one(shaky.czar))
    fails(run.extract, 0)
    run.extract_all()
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    run.split()
    before_first_call(monkeypatch, loader, "load_file", lambda: kill_one(shaky.czar))
    told = fails(run.load, 0)
    assert any(f"errno: {number}" in told for number in (2006, 2013, 1927)), told
    assert run_sql(shaky.czar, f"SELECT COUNT(*) FROM {working_table(run, 'slices')}") == [(0,)]
    run.load_all()
    before_first_call(monkeypatch, IndexBuild, "checksum", lambda: kill_one(shaky.czar))
    fails(run.publish)
    before_first_call(monkeypatch, IndexBuild, "swap", lambda: kill_one(shaky.czar))
    fails(run.publish)
    before_first_call(monkeypatch, IndexBuild, "tidy", lambda: kill_one(shaky.czar))
    fails(run.publish)
    # It was swapped in by then.
    assert len(run.index()[0]) == SPEC.rows
    finish(run)


def test_statement_killed_in_the_midst_of_a_load(run: Build, shaky: Sandbox, rival: Any) -> None:
    run.to_load()
    key = int(truth(SPEC).index_rows()[0][SPEC.rows // 2])
    rival.query(f"INSERT INTO {working_table(run, 'shadow')} VALUES ({key}, 1, 1)")
    loading = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'LOAD DATA%'"

    def kill() -> None:
        wait_until(lambda: run_sql(shaky.czar, loading) != [(0,)])
        kill_one(shaky.czar, "LOAD DATA%")

    killer = Thread(target=kill)
    killer.start()
    told = fails(run.load, 0)
    killer.join()
    assert any(f"errno: {number}" in told for number in (2006, 2013, 1927)), told
    assert run_sql(shaky.czar, f"SELECT COUNT(*) FROM {working_table(run, 'slices')}") == [(0,)]
    rival.rollback()
    run.load_all()
    finish(run)


def test_a_broken_connection_hides_no_error(run: Build, shaky: Sandbox) -> None:
    # What the work says counts, not what the driver says of a connection that was closed already.
    run.plan()
    tables: IndexTables = run.servers.tables(run.request)

    def lose_the_claim(czar: Any) -> None:
        raise claim.lost(tables)

    for work, kind in ((lose_the_claim, ClaimLostError), (lambda czar: client.query(czar, "SELECT 1"), MySQLdb.Error)):
        with ExitStack() as stack:
            stack.enter_context(pytest.raises(kind, match=r"claim|Lost connection|was killed"))
            czar = stack.enter_context(session(run.servers.czar))
            stack.enter_context(transaction(czar))
            kill_one(shaky.czar)
            work(czar)
    run.extract_all()
    publish_all(run)


def test_a_sign_of_life_that_waits_fails_no_work(run: Build, rival: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.1)
    run.plan()
    tables = run.servers.tables(run.request)
    with claim.keeping(run.servers.czar, tables, run.plan_made.token):
        client.query(rival, f"SELECT 1 FROM {working_table(run, 'claim')} FOR UPDATE")
        waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'UPDATE %alive_at%'"
        # A statement that does not wait is over before the second look.
        wait_until(lambda: all(run_sql(run.sandbox.czar, waiting)[0][0] for _ in range(3)))
    rival.rollback()


def test_a_broken_line_to_the_czar_hides_no_chunk(
    run: Build, shaky: Sandbox, sky: CatalogSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(self: GroupScheduler, group: int) -> None:
        run_sql(shaky.czar, f"KILL {self._connection.thread_id()}")
        real(self, group)

    real = GroupScheduler.end
    run.plan()
    group = group_of(run, WORKER)
    chunk = next(c.chunk for c in run.plan_made.groups[group] if c.chunk in sky.placement)
    table = f"`{SPEC.database}`.`Object_{chunk}`"
    run_sql(shaky.workers[WORKER], f"RENAME TABLE {table} TO `{SPEC.database}`.aside")
    monkeypatch.setattr(GroupScheduler, "end", end)
    try:
        with pytest.raises(DataError):
            run.extract(group)
    finally:
        run_sql(shaky.workers[WORKER], f"RENAME TABLE `{SPEC.database}`.aside TO {table}")
    assert [failure.chunk for failure in run.failures("extract")] == [chunk]
