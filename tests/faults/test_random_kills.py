"""SIGKILL of a build's tasks, all their lives and in each narrow window: readers see one index, a retry ends well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random

import MySQLdb
import pytest

from airflow_reindex.core.failures import TransientError
from airflow_reindex.director.model.records import read_split
from airflow_reindex.director.mysql.client import is_transient
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate, truth
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import note
from tests.support.build import Build, assert_same, clean_czar, run_sql
from tests.support.claims import claims
from tests.support.task_process import TaskProcess

Factory = Callable[..., Build]

SPEC = CatalogSpec(database="sky_kills", rows=20_000, chunks=40)
LIVE = f"qservMeta.`{SPEC.database}__Object`"


@pytest.fixture(scope="module")
def sky(shaky: Sandbox) -> CatalogSummary:
    """The catalog of these tests."""
    return generate(shaky, SPEC)


@pytest.fixture
def run(sky: CatalogSummary, shaky: Sandbox, shaky_build: Factory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """A build of an index that readers have already: one row, which the catalog has not."""
    monkeypatch.setattr(Build, "slice_rows", 200)
    with clean_czar(shaky):
        yield fresh(shaky, shaky_build, "run")


def fresh(shaky: Sandbox, shaky_build: Factory, run_id: str) -> Build:
    """A build, and the index that readers have before it."""
    run_sql(
        shaky.czar,
        f"CREATE OR REPLACE TABLE {LIVE} (objectId BIGINT NOT NULL, chunkId INT, subChunkId INT, "
        "UNIQUE KEY (objectId)) ENGINE=InnoDB",
        f"INSERT INTO {LIVE} VALUES (-7, 1, 2)",
    )
    made = shaky_build(SPEC.database, run_id=run_id, rebuild=1)
    made.rows_per_task = 10_000
    return made


def readers_see(run: Build) -> str:
    """``old`` or ``new``: a whole index, whichever."""
    if run_sql(run.sandbox.czar, f"SELECT COUNT(*) FROM {LIVE}") == [(1,)]:
        assert run_sql(run.sandbox.czar, f"SELECT * FROM {LIVE}") == [(-7, 1, 2)]
        return "old"
    assert_same(run.index(), truth(SPEC).index_rows())
    return "new"


def strike(run: Build, step: str, *values: int, at: str, seconds: float, chance: Random, call: int = 1) -> bool:
    """Kill a task some time after it has come to a function; whether it was still at work."""
    with TaskProcess(run, step, *values, at=at, call=call) as task:
        return task.wait().kill_after(chance.uniform(0, seconds))


def finish(run: Build) -> None:
    """The rest of a run whose swap may have happened, and the proof that all is as if it had lived."""
    assert run.publish().rows == SPEC.rows
    run.finish()
    assert readers_see(run) == "new"
    # A fresh probe may be that of a plan at work: what a dead plan has left is removed an hour later.
    assert [name for name in run.working_tables() if not name.startswith("probe_")] == []
    for server in run.sandbox.servers:
        left = [path.name for path in server.infile_dir.iterdir()]
        assert [name for name in left if not name.startswith("reindex-probe-")] == []
    assert {row[-1] for row in run_sql(run.sandbox.czar, f"CHECK TABLE {LIVE}")} == {"OK"}


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow_fault)])
def test_killed_all_its_life(run: Build, shaky: Sandbox, shaky_build: Factory, chance: Random, kills: int) -> None:
    """Each task is killed so often, at any moment of its life."""
    model = fresh(shaky, shaky_build, "model")
    seconds: dict[str, float] = {}

    def undisturbed(step: str, *values: int) -> None:
        began = time.monotonic()
        getattr(model, step)(*values)
        seconds[step] = time.monotonic() - began

    walk(model, undisturbed)
    model.finish()
    run = fresh(shaky, shaky_build, "run")

    def through(step: str, *values: int) -> None:
        struck = 0
        for _ in range(kills):
            at = f"tests.support.build:Build.{step}"
            struck += strike(run, step, *values, at=at, seconds=1.2 * seconds[step], chance=chance)
            assert readers_see(run) in (("old",) if step != "publish" else ("old", "new"))
        note(f"{step} {values}: {struck} of {kills} kills struck within {seconds[step]:.2f} s")
        retry(run, step, *values)

    walk(run, through)
    assert run.staged_chunks() == sorted(chunk.chunk for some in run.plan_made.groups for chunk in some)
    finish(run)


def retry(run: Build, step: str, *values: int) -> None:
    """As Airflow does: the server may be busy for a moment with what the dead task has asked of it."""
    for pause in (1.0, 1.0, 0.0):
        try:
            getattr(run, step)(*values)
        except (TransientError, MySQLdb.Error) as error:
            note(f"{step} {values} is tried again: {error}")
            if not pause or not is_transient(error):
                raise
            time.sleep(pause)
        else:
            return


def walk(run: Build, do: Callable[..., None]) -> None:
    """All tasks of a build, one after the other."""
    do("plan")
    for group in range(len(run.plan_made.groups)):
        do("extract", group)
    do("split")
    for key_range in read_split(run.folder).ranges:
        do("load", key_range.number)
    do("publish")


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow_fault)])
def test_killed_between_a_load_and_its_commit(run: Build, chance: Random, kills: int) -> None:
    run.to_load()
    number = read_split(run.folder).ranges[0].number
    struck = 0
    for _ in range(kills):
        # The second call of a slice comes after its rows are loaded, and before the commit.
        struck += strike(
            run, "load", number, at="airflow_reindex.director.load.loader:execute", call=2, seconds=0.001, chance=chance
        )
        assert readers_see(run) == "old"
    note(f"{struck} of {kills} kills struck")
    run.load_all()
    finish(run)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow_fault)])
def test_killed_around_the_swap(run: Build, shaky: Sandbox, shaky_build: Factory, chance: Random, kills: int) -> None:
    seen, struck = [], 0
    for number in range(kills):
        run = fresh(shaky, shaky_build, f"run{number}")
        run.to_load()
        run.load_all()
        struck += strike(
            run,
            "publish",
            at="airflow_reindex.director.coordination.index_build:IndexBuild.swap",
            seconds=0.003,
            chance=chance,
        )
        seen.append(readers_see(run))
        finish(run)
    note(f"{struck} of {kills} kills struck; readers then saw {seen}")


def test_killed_before_its_claim_has_its_name(run: Build) -> None:
    """The claim's table is there, its row is not: the same run's next try need not wait for a time-out."""
    with TaskProcess(run, "plan", at="airflow_reindex.director.coordination.claim:transaction") as task:
        assert task.wait().kill()
    (name,) = claims(run)
    assert run_sql(run.sandbox.czar, f"SELECT * FROM airflow_reindex.`{name}`") == []
    retry(run, "plan")
    run.to_load()
    run.load_all()
    finish(run)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow_fault)])
def test_killed_while_it_takes_its_claim(run: Build, shaky_build: Factory, chance: Random, kills: int) -> None:
    struck = 0
    for number in range(kills):
        # Another run each time, as somebody who is impatient triggers them: it takes over from the dead one.
        run = shaky_build(SPEC.database, run_id=f"claimed{number}", rebuild=1, force_takeover=1)
        run.rows_per_task = 10_000
        struck += strike(
            run, "plan", at="airflow_reindex.director.coordination.claim:acquire", seconds=0.004, chance=chance
        )
        assert len(claims(run)) <= 1
        assert readers_see(run) == "old"
    note(f"{struck} of {kills} kills struck")
    run.to_load()
    run.load_all()
    finish(run)
