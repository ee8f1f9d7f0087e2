"""Runs that fail: the status is true, all failures are listed, readers keep what they had, the next run goes on."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import task_records
from airflow_reindex.director import steps
from airflow_reindex.director.extract.extractor import ExtractOutcome
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.hooks.staging import staging_root
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, read_index, run_sql, tables_of, working_tables
from tests.support.wait import wait_until
from tests.system.conftest import Run, restore_table

Trigger = Callable[..., Run]


def test_all_failures_are_reported_and_the_next_run_reads_only_the_rest(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger
) -> None:
    made = catalog(CatalogSpec(rows=12_000, chunks=40, missing=3, seed=7), fresh=True)
    database, missing = made.spec.database, made.missing_on
    # A table that changed within the last two whole seconds has no fingerprint, and would be read again.
    time.sleep(3.1)
    run = trigger(database=database, director_table="Object")
    assert run.state == "failed"
    report = run.report
    assert report["status"] == "failed"
    found = {(w, int(c)) for w, chunks in report["error_ext"]["Object"].items() for c in chunks}
    assert found == {(worker, chunk) for chunk, workers in missing.items() for worker in workers}
    assert all("1146" in text for chunks in report["error_ext"]["Object"].values() for text in chunks.values())
    assert report["failed"] == 3
    assert report["count"] + report["failed"] == report["total"]
    assert report["rows"] == 0
    assert f"{database}__Object" not in tables_of(sandbox, "qservMeta")
    assert not any(task.startswith(("load", "publish")) and s == "success" for task, s in run.tasks.items())

    whole = next(chunk for chunk in made.placement if chunk not in missing)
    for chunk, workers in missing.items():
        for worker in workers:
            other = next(c for c, w in made.placement.items() if c not in missing and worker in w) or whole
            restore_table(sandbox, worker, database, chunk, other)
    second = trigger(database=database, director_table="Object")
    assert second.report["status"] == "done", second.report
    adopted = second.report["notes"]["adopted_chunks"]
    assert adopted > 0, "what the failed run had staged is used"
    extracted = sum(p["rows"] for p in second.report["phases"] if p["name"] == "extract")
    assert extracted < second.report["rows"]
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows(tuple(missing)))
    assert not run.folder.names("runs"), "the failed run's staged rows were taken over or swept"
    assert working_tables(sandbox, f"{made.spec.database}__Object") == []


def test_every_extract_fails(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, connections: Callable[..., None]
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    connections(workers={"worker-1": "qserv_worker_9", "worker-2": "qserv_worker_9"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_QSERV_WORKER_9", "mysql://nobody:wrong@127.0.0.1:1/")
        run = trigger(database=made.spec.database, director_table="Object", rebuild=1)
    report = run.report
    assert report["status"] == "failed"
    assert report["failed"] == report["total"] == 11
    messages = [t for chunks in report["error_ext"]["Object"].values() for t in chunks.values()]
    assert len(messages) == 12, "the dummy chunk was asked for on both workers"
    assert all("Failed to connect to the worker service" in text for text in messages)


def test_task_that_dies_without_a_word(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=15))
    real = steps.extract_group

    def die(servers: Servers, folder: Folder, plan: Plan, group: int, memory: int) -> ExtractOutcome:
        if group == 0:
            # Like a process that is killed: nothing is staged, and no record says why.
            raise MemoryError
        return real(servers, folder, plan, group, memory)

    monkeypatch.setattr(steps, "extract_group", die)
    run = trigger(database=made.spec.database, director_table="Object")
    report = run.report
    assert report["status"] == "failed"
    lost = [text for chunks in report["error_ext"]["Object"].values() for text in chunks.values()]
    assert 0 < len(lost) == report["failed"] < report["total"]
    assert all("extract[0] ended as 'failed' and left no error: it was killed, or never ran" in text for text in lost)


def test_worker_that_comes_back_between_two_tries(sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(CatalogSpec(rows=6_000, chunks=30, seed=3))
    worker = sandbox.workers["worker-2"]
    worker.kill()
    seen: list[Folder] = []
    root = staging_root().child("build_director_index")

    def failed_extracts() -> list[Folder]:
        folders = [Folder.at(f"{root.root}/{name}") for name in root.names()]
        return [f for f in folders if any(r.task == "extract" and r.error for r in task_records(f))]

    def revive() -> None:
        try:
            seen.extend(wait_until(failed_extracts, seconds=600, pause=0.05))
        finally:
            worker.start()

    thread = threading.Thread(target=revive)
    thread.start()
    try:
        run = trigger(database=made.spec.database, director_table="Object")
    finally:
        thread.join()
    assert seen, "no extract task failed"
    assert run.report["status"] == "done", run.report
    assert_same(read_index(sandbox, f"{made.spec.database}__Object"), truth(made.spec).index_rows())


def test_bad_request_is_refused(catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    run = trigger(database=made.spec.database, director_table="Object", qserv_conn_id="aws_default")
    assert run.state == "failed"
    assert run.report["status"] == "refused"
    assert "may not be used" in run.report["detail"]
    assert run.tasks["plan"] == "failed"


def test_plan_that_cannot_reach_the_czar(sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    sandbox.czar.stop()
    try:
        run = trigger(database=made.spec.database, director_table="Object")
    finally:
        sandbox.czar.start()
    assert run.state == "failed"
    assert run.report["status"] == "failed"
    assert "2002" in run.report["detail"]


def test_empty_catalog_gives_an_empty_index(sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=5), fresh=True)
    run_sql(sandbox.czar, f"DELETE FROM qservReplica.replica WHERE `database` = '{made.spec.database}'")
    for chunk, workers in made.placement.items():
        for worker in workers:
            run_sql(sandbox.workers[worker], f"DROP TABLE `{made.spec.database}`.`Object_{chunk}`")
    run = trigger(database=made.spec.database, director_table="Object")
    assert run.state == "success", run.tasks
    assert run.report["status"] == "done"
    assert run.report["total"] == run.report["rows"] == 0
    assert len(read_index(sandbox, f"{made.spec.database}__Object")[0]) == 0


def test_dry_run_changes_nothing(sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=6))
    run = trigger(database=made.spec.database, director_table="Object", dry_run=True)
    assert run.state == "success", run.tasks
    assert run.report["status"] == "pending"
    assert run.report["notes"]["rows"] == made.rows
    assert f"{made.spec.database}__Object" not in tables_of(sandbox, "qservMeta")
    assert working_tables(sandbox, f"{made.spec.database}__Object") == []
    assert {run.tasks[task] for task in ("extract", "split", "load", "publish")} == {"skipped"}


def test_scan_says_what_it_could_not_check(
    sandbox: Sandbox,
    catalog: CatalogFactory,
    trigger: Trigger,
    connections: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=8, published=False))
    connections(catalog="scan")
    with caplog.at_level(logging.WARNING):
        run = trigger(database=made.spec.database, director_table="Object")
    assert run.report["status"] == "done"
    assert any("published" in sentence for sentence in run.report["notes"]["not_checked"])
    assert "could not check that the database and the table are published" in caplog.text
    assert_same(read_index(sandbox, f"{made.spec.database}__Object"), truth(made.spec).index_rows())


def test_scan_without_a_worker_is_no_smaller_catalog(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, connections: Callable[..., None]
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=14))
    connections(catalog="scan")
    sandbox.workers["worker-2"].kill()
    try:
        run = trigger(database=made.spec.database, director_table="Object")
    finally:
        sandbox.workers["worker-2"].start()
    assert run.report["status"] == "failed"
    assert "worker 'worker-2' does not answer, and with catalog=scan" in run.report["detail"]
    assert f"{made.spec.database}__Object" not in tables_of(sandbox, "qservMeta")


def test_passwords_stay_in_the_connections(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.configuration import conf

    made = catalog(CatalogSpec(rows=2_000, chunks=10, missing=1, seed=9))
    with caplog.at_level(logging.DEBUG, logger="airflow_reindex"):
        run = trigger(database=made.spec.database, director_table="Object")
    assert run.state == "failed"
    passwords = [p for server in sandbox.servers for p in server.passwords.values()]
    assert len(passwords) >= 6
    staged = [path for path in Path(run.folder.root).rglob("*") if path.is_file()]
    assert len(staged) >= 6, "plan, records, runs and report"
    contents = {str(path): path.read_bytes() for path in staged}
    # XComs, rendered fields and logs of events. Asked of SQLite, which has part of them in its log; and closing the
    # file itself would take this process's locks, and other processes would remove the log from under it.
    with closing(sqlite3.connect(conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///"))) as metadata:
        contents["metadata"] = metadata.serialize()
    assert run.dag_run.run_id.encode() in contents["metadata"]
    for password in passwords:
        assert password not in caplog.text
        assert not [name for name, content in contents.items() if password.encode() in content]
