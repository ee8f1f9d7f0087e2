"""A run is cancelled in each of its tasks, as Airflow does it: the next run takes over, and leaves nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_reindex.core.staging import Folder
from sandbox.catalog.catalog import CatalogSpec
from sandbox.servers.cluster import Sandbox
from sandbox.servers.postgres import Postgres
from tests.faults.contents import Changing
from tests.faults.moving import ITEMS, assert_readers_follow, claimants, connect, moving, relations
from tests.support.build import Build, assert_same, run_sql
from tests.support.claims import claim_row, claims
from tests.support.collection_contents import assert_moved, finish
from tests.support.reindex import NEW, OLD, Factory, rows_of
from tests.support.task_process import TaskProcess
from tests.support.wait import wait_until

SPEC = CatalogSpec(database="sky_cancel", rows=8_000, chunks=12, empty_chunks=0)
#: When a build is cancelled: the task, its map index, the moment, which call.
BUILD = {
    "plan, just claimed": ("plan", None, "airflow_reindex.director.planning.planning:reuse_runs", 1),
    "plan, not yet written": ("plan", None, "airflow_reindex.director.planning.planning:write_plan", 1),
    "extract": ("extract", 0, "airflow_reindex.director.extract.extractor:stream", 3),
    "split": ("split", None, "airflow_reindex.director.steps:write_split", 1),
    "load": ("load", 0, "airflow_reindex.director.load.loader:load_file", 1),
    "publish": ("publish", None, "airflow_reindex.director.coordination.index_build:IndexBuild.swap", 1),
}
#: The tasks of a build before each task.
BEFORE = ("plan", "extract_all", "split", "load_all", "publish")
#: When a reindex is cancelled.
REINDEX = {
    "plan": ("plan", None, "airflow_reindex.vectors.planning.planning:_with_windows", 1),
    "reindex": ("window", 0, "airflow_reindex.vectors.stores.pgvector.writing:copy_parts", 2),
    "verify": ("verify", None, "airflow_reindex.vectors.stores.pgvector.indexing:_create", 1),
    "switch": ("switch", None, "airflow_reindex.vectors.cutover.switch:_repoint", 1),
    "switch, done but for its end": ("switch", None, "airflow_reindex.vectors.cutover.switch:note_hooked", 1),
}


@pytest.fixture(scope="module")
def sky(shaky: Sandbox) -> Changing:
    """A catalog that changes."""
    return Changing(shaky, SPEC)


@pytest.fixture
def runs(build: Callable[..., Build]) -> tuple[Build, Build]:
    """A run that is going to be cancelled; and the next one."""
    first, second = build("first"), build("second")
    second.states["build_director_index", "first"] = "failed"
    return first, second


def up_to(run: Build, step: str) -> None:
    """Do all tasks before one."""
    for name in BEFORE:
        if name.removesuffix("_all") == step:
            return
        getattr(run, name)()


def inbox_of(run: Build) -> list[str]:
    """Files on their way to the server."""
    return [path.name for path in run.sandbox.czar.infile_dir.glob("reindex-*")]


def server_is_at_rest(run: Build) -> bool:
    """Whether the czar's server has noticed that all clients of the product are gone."""
    statement = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'reindex'"
    return run_sql(run.sandbox.czar, statement) == [(0,)]


@pytest.mark.parametrize("moment", BUILD)
def test_cancelled_build(sky: Changing, runs: tuple[Build, Build], moment: str) -> None:
    first, second = runs
    step, number, at, call = BUILD[moment]
    up_to(first, step)
    old = sky.proof()
    with TaskProcess(first, step, number, at=at, call=call) as task:
        task.wait().cancel()
    wait_until(lambda: server_is_at_rest(first))
    assert sky.proof() == old
    assert claim_row(first) == "first"
    second.plan()
    # Of the dead run nothing is left, neither on the server nor on the disk.
    assert second.working_tables() == claims(second)
    assert claim_row(second) == "second"
    assert inbox_of(first) == []
    assert Folder.at(first.folder.url).names() == []
    assert sky.proof() == old
    second.extract_all()
    second.split()
    second.load_all()
    assert sky.proof() == old
    assert second.publish().rows == SPEC.rows
    assert_finished(sky, second)


def test_build_cancelled_after_its_swap(sky: Changing, runs: tuple[Build, Build]) -> None:
    # Readers have the new index, and it is whole; what the task left on the server is the next run's to sweep.
    first, second = runs
    up_to(first, "publish")
    old = sky.proof()
    with TaskProcess(first, "publish", at="airflow_reindex.director.coordination.index_build:IndexBuild.tidy") as task:
        task.wait().cancel()
    new = sky.proof()
    assert new != old
    assert_same(first.index(), sky.rows)
    assert {name.split("_")[0] for name in first.working_tables()} == {"done", "previous", "slices"}
    second.run()
    assert_finished(sky, second)
    assert sky.proof() == new


def test_publish_that_ends_before_it_is_killed(sky: Changing, runs: tuple[Build, Build]) -> None:
    # Between SIGTERM and SIGKILL there are some seconds.
    first, second = runs
    up_to(first, "publish")
    with TaskProcess(first, "publish", at="airflow_reindex.director.coordination.index_build:IndexBuild.swap") as task:
        task.wait().tell()
        task.release()
        assert task.result() == ""
    assert_same(first.index(), sky.rows)
    assert {name.split("_")[0] for name in first.working_tables()} == {"done"}
    second.run()
    assert_finished(sky, second)


def assert_finished(sky: Changing, run: Build) -> None:
    """The index is what the catalog says, and nothing else is left."""
    sky.check_done(run)
    assert inbox_of(run) == []


@pytest.fixture(scope="module")
def usual(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a reindex leaves in its database that nobody has disturbed."""
    with moving(postgres, tmp_path_factory.mktemp("usual")) as factory:
        run = factory()
        run.run()
        finish(run)
        return relations(run)


@pytest.mark.parametrize("moment", REINDEX)
def test_cancelled_reindex(make: Factory, usual: list[str], moment: str) -> None:
    first, second = make("first"), make("second")
    step, number, at, call = REINDEX[moment]
    for name in ("plan", "windows", "verify", "switch"):
        if name.removesuffix("s") == step:
            break
        getattr(first, name)()
    with TaskProcess(first, step, number, at=at, call=call) as task:
        task.wait().cancel()
    assert_readers_follow(first, NEW if "done" in moment else OLD)
    assert claimants(first) == ["first"]
    with connect(first) as admin:
        # Nor are writers kept waiting by a dead task.
        admin.execute("SET lock_timeout = '10s'")
        admin.execute("""UPDATE dbo_old_model SET user_id = 'me' WHERE object_id = 'o000001'""")
        there = {payload["text"] for payload, _ in rows_of(admin, NEW).values()} if step != "plan" else set()
    assert bool(there) == (step != "plan")
    before = second.embedded()
    second.states["reindex_collection", "first"] = "failed"
    report = second.run()
    assert (report["status"], report["count"], report["failed"]) == ("done", ITEMS, 0)
    after = second.embedded()
    assert {text for text in there if after[text] != before[text]} <= {"text number 1"}
    finish(second)
    assert_readers_follow(second, NEW)
    assert claimants(second) == []
    assert relations(second) == usual
    # Nothing half-written lies among the dead run's own records.
    assert not list(Path(first.folder.path("")).rglob(".*"))
    with connect(first) as admin:
        assert_moved(admin)
