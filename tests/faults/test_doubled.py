"""The same task in two processes at once, and a task that sleeps through a takeover: each thing is done once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from airflow_reindex.core.failures import ConflictError, ReindexError
from airflow_reindex.director.model.records import read_split
from sandbox.catalog.catalog import CatalogSpec
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import Changing
from tests.faults.moving import ITEMS, assert_readers_follow, claimants, connect
from tests.support.build import Build, run_sql, waits_for_lock
from tests.support.claims import claim_row
from tests.support.collection_contents import assert_moved, finish, waiting_for_lock
from tests.support.reindex import NEW, OLD, Factory
from tests.support.task_process import TaskProcess
from tests.support.wait import wait_until

SPEC = CatalogSpec(database="sky_doubled", rows=8_000, chunks=12, empty_chunks=0)
DIRECTOR, VECTORS = "airflow_reindex.director", "airflow_reindex.vectors"
BUILD = f"{DIRECTOR}.coordination.index_build:IndexBuild"
#: Where a task of a build falls asleep: the task, its map index, the moment.
ASLEEP = {
    "extract": ("extract", 0, f"{DIRECTOR}.extract.extractor:stream"),
    "split": ("split", None, f"{BUILD}.create"),
    "load": ("load", 0, f"{DIRECTOR}.load.loader:write_text"),
    "publish": ("publish", None, f"{BUILD}.swap"),
}
#: Where a task of a reindex does.
ASLEEP_MOVING = {
    "window": ("window", 0, f"{VECTORS}.stores.pgvector.collection:PgVectorCollection.put"),
    "verify": ("verify", None, f"{VECTORS}.stores.pgvector.collection:PgVectorCollection.build_index"),
    "switch": ("switch", None, f"{VECTORS}.stores.pgvector:PgVectorStore.hold_writers"),
}


@pytest.fixture(scope="module")
def sky(shaky: Sandbox) -> Changing:
    """A catalog that changes."""
    return Changing(shaky, SPEC)


def assert_done(sky: Changing, run: Build) -> None:
    """The index is what the catalog says, and nothing else is left."""
    sky.check_done(run)
    assert list(run.sandbox.czar.infile_dir.glob(f"reindex-*{run.plan_made.token}*")) == []


def test_extract_delivered_twice(sky: Changing, build: Callable[..., Build]) -> None:
    run = build()
    plan = run.plan()
    with ExitStack() as stack:
        both = [stack.enter_context(TaskProcess(run, "extract", 0, at=f"{DIRECTOR}.steps:Extraction")) for _ in "ab"]
        for task in both:
            task.wait()
        for task in both:
            task.release()
        assert [task.result() for task in both] == ["", ""]
    staged = run.staged_chunks()
    # The one that found its group taken may have read another one meanwhile.
    assert {chunk.chunk for chunk in plan.groups[0]} <= set(staged)
    assert len(staged) == len(set(staged))
    run.extract_all()
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    assert run.complete().rows == SPEC.rows
    assert_done(sky, run)


def test_split_delivered_twice(sky: Changing, build: Callable[..., Build]) -> None:
    run = build()
    run.plan()
    run.extract_all()
    with TaskProcess(run, "split", at=f"{BUILD}.create") as one:
        one.wait()
        run.split()
        run.load(0)
        one.release()
        assert one.result() == ""
    # What is loaded counts: the split is a function of what is staged.
    run.load_all()
    assert run.publish().rows == SPEC.rows
    assert_done(sky, run)


def test_load_delivered_twice(sky: Changing, build: Callable[..., Build]) -> None:
    run = build()
    run.to_load()
    with ExitStack() as stack:
        one = stack.enter_context(TaskProcess(run, "load", 0, at=f"{DIRECTOR}.load.loader:load_file")).wait()
        other = stack.enter_context(TaskProcess(run, "load", 0))
        inserting = "INFO LIKE 'INSERT INTO %slices%' AND TIME_MS > 200"
        waiting = f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE {inserting}"
        wait_until(lambda: run_sql(run.sandbox.czar, waiting) == [(1,)])
        one.release()
        assert [one.result(), other.result()] == ["", ""]
    ranges = read_split(run.folder).ranges
    (slices,) = [name for name in run.working_tables() if name.startswith("slices_")]
    loaded = run_sql(run.sandbox.czar, f"SELECT SUM(`rows`) FROM airflow_reindex.`{slices}` WHERE `range` = 0")
    assert loaded == [(ranges[0].rows,)]
    run.load_all()
    assert run.publish().rows == SPEC.rows
    assert_done(sky, run)


@pytest.mark.parametrize("moment", [f"{DIRECTOR}.publish.proof:verify", f"{BUILD}.swap"])
def test_publish_delivered_twice(sky: Changing, build: Callable[..., Build], moment: str) -> None:
    run = build()
    run.to_load()
    run.load_all()
    with ExitStack() as stack:
        one = stack.enter_context(TaskProcess(run, "publish", at=moment)).wait()
        other = stack.enter_context(TaskProcess(run, "publish"))
        assert other.result() == ""
        new = sky.proof()
        one.release()
        # The index is published by this very run: nobody took over, and nothing failed.
        assert one.result() == ""
    assert sky.proof() == new
    assert_done(sky, run)


@pytest.mark.parametrize("moment", ["reuse_runs", "write_plan"])
def test_plan_delivered_twice(sky: Changing, build: Callable[..., Build], moment: str) -> None:
    # The later one has the claim; the earlier one must not put its plan into the folder afterwards.
    run = build()
    with TaskProcess(run, "plan", at=f"{DIRECTOR}.planning.planning:{moment}") as one:
        one.wait()
        with TaskProcess(run, "plan") as other:
            if moment == "write_plan":
                # It holds the claim until its plan is there.
                wait_until(lambda: waits_for_lock(run.sandbox, "RENAME TABLE `airflow_reindex`.`claim"))
                one.release()
                assert [one.result(), other.result()] == ["", ""]
            else:
                assert other.result() == ""
                one.release()
                assert one.result().startswith("ClaimLostError: ")
    (name,) = [name for name in run.working_tables() if name.startswith("claim_")]
    assert name.endswith(run.plan_made.token)
    run.extract_all()
    assert run.complete().rows == SPEC.rows
    assert_done(sky, run)


def test_two_runs_plan_at_the_same_instant(sky: Changing, build: Callable[..., Build]) -> None:
    runs = {name: build(name) for name in ("one", "two")}
    with ExitStack() as stack:
        tasks = {
            name: stack.enter_context(TaskProcess(run, "plan", at=f"{DIRECTOR}.planning.planning:_claim"))
            for name, run in runs.items()
        }
        for task in tasks.values():
            task.wait()
        for task in tasks.values():
            task.release()
        results = {name: task.result() for name, task in tasks.items()}
    (winner,) = [name for name, error in results.items() if not error]
    (refused,) = filter(None, results.values())
    assert refused.startswith("ConflictError: ")
    assert f"is being built by run '{winner}' of DAG 'build_director_index'" in refused
    run = runs[winner]
    assert claim_row(run) == winner
    run.extract_all()
    run.complete()
    assert_done(sky, run)


@pytest.mark.parametrize("step", ASLEEP)
def test_build_task_that_sleeps_through_a_takeover(sky: Changing, build: Callable[..., Build], step: str) -> None:
    zombie, heir = build("zombie"), build("heir")
    for name in ("plan", "extract_all", "split", "load_all"):
        if name.removesuffix("_all") == step:
            break
        getattr(zombie, name)()
    _, number, at = ASLEEP[step]
    with TaskProcess(zombie, step, number, at=at) as task:
        task.wait()
        with pytest.raises(ConflictError, match="is being built by run 'zombie'"):
            heir.plan()
        task.send(signal.SIGSTOP)
        heir.claim_timeout = 0.5
        wait_until(lambda: silent(zombie) > 0.5)
        heir.run()
        new, tables = sky.proof(), heir.working_tables()
        task.send(signal.SIGCONT)
        task.release()
        told = task.result()
        if step == "extract" and not told:
            # It was done before its next heartbeat. Its files lie in its own folder; what comes next is refused.
            with pytest.raises(ReindexError, match=r"the plan in .* is gone"):
                zombie.split()
        else:
            assert told.startswith("ClaimLostError: "), told
            assert "another run took over" in told
    assert (sky.proof(), heir.working_tables()) == (new, tables)
    assert_done(sky, heir)


def silent(run: Build) -> float:
    """Seconds since the last heartbeat."""
    (name,) = [name for name in run.working_tables() if name.startswith("claim_")]
    since = "SELECT TIMESTAMPDIFF(MICROSECOND, alive_at, NOW(6)) / 1e6"
    return float(run_sql(run.sandbox.czar, f"{since} FROM airflow_reindex.`{name}`")[0][0])


def test_window_delivered_twice(make: Factory) -> None:
    run = make()
    run.plan()
    with ExitStack() as stack, connect(run) as admin:
        one = stack.enter_context(
            TaskProcess(run, "window", 0, at=f"{VECTORS}.stores.pgvector.writing:copy_parts")
        ).wait()
        other = stack.enter_context(TaskProcess(run, "window", 0))
        blocked = "SELECT 1 FROM pg_locks WHERE NOT granted"
        wait_until(lambda: admin.execute(blocked).fetchone())
        one.release()
        assert [one.result(), other.result()] == ["", ""]
    run.verify()
    run.switch()
    with connect(run) as admin:
        assert_moved(admin)
    assert_readers_follow(run, NEW)
    assert max(Counter(run.embedded()).values()) <= 3  # two deliveries, and the probe's text
    report = run.report()
    assert (report["status"], report["count"], report["failed"]) == ("done", ITEMS, 0)


def test_switch_delivered_twice(make: Factory) -> None:
    run = make().to_switch()
    with ExitStack() as stack, connect(run) as admin:
        one = stack.enter_context(TaskProcess(run, "switch", at=f"{VECTORS}.cutover.switch:_repoint")).wait()
        other = stack.enter_context(TaskProcess(run, "switch"))
        wait_until(lambda: waiting_for_lock(admin, "dbo_old_model"))
        one.release()
        assert [one.result(), other.result()] == ["", ""]
    assert_readers_follow(run, NEW)
    pointer = run.store().pointer("products")
    assert pointer is not None
    # A roll-back needs to know where readers came from.
    assert (pointer.previous_collection_id, pointer.previous_model_id, pointer.hooked) == (OLD, OLD, True)
    with connect(run) as admin:
        assert_moved(admin)
    assert run.report()["status"] == "done"


@pytest.mark.parametrize("step", ASLEEP_MOVING)
def test_reindex_task_that_sleeps_through_a_takeover(make: Factory, step: str) -> None:
    zombie, heir = make("zombie"), make("heir")
    for name in ("plan", "windows", "verify"):
        if name.removesuffix("s") == step:
            break
        getattr(zombie, name)()
    _, number, at = ASLEEP_MOVING[step]
    with TaskProcess(zombie, step, number, at=at) as task:
        task.wait()
        with pytest.raises(ConflictError, match="is being built by run 'zombie'"):
            heir.plan()
        task.send(signal.SIGSTOP)
        heir.claim_timeout = 0.0
        report = heir.run()
        assert (report["status"], report["count"]) == ("done", ITEMS)
        before = heir.embedded()
        task.send(signal.SIGCONT)
        task.release()
        told = task.result()
        assert told.startswith("ClaimLostError: "), told
        assert "another run" in told
    assert heir.embedded() == before
    assert_readers_follow(heir, NEW)
    assert claimants(heir) == ["heir"]
    with connect(heir) as admin:
        assert_moved(admin)
    finish(heir)
    assert claimants(heir) == []
