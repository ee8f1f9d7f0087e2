"""SIGKILL of a task's own process at random moments: the retry does what is left, and nothing comes twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from airflow_reindex.director.coordination import claim
from airflow_reindex.director.coordination.scheduler import GroupScheduler
from airflow_reindex.director.model.limits import Limits
from airflow_reindex.director.model.records import read_split
from airflow_reindex.director.model.runs import RUNS
from airflow_reindex.director.mysql.client import session
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate, truth
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import note
from tests.support.build import Build, assert_same, run_sql
from tests.support.task_process import TaskProcess
from tests.support.wait import wait_until

KILLS = 4
SPEC = CatalogSpec(database="sky_task", rows=60_000, chunks=60)
SLICE_ROWS, ROWS_IN_MEMORY = 500, 1_000


@pytest.fixture(scope="module")
def sky(shaky: Sandbox) -> CatalogSummary:
    """The catalog of these tests."""
    return generate(shaky, SPEC)


def leftovers(run: Build) -> list[str]:
    """What loads left in the folder that they share with the server."""
    return [path.name for path in run.sandbox.czar.infile_dir.iterdir() if run.plan_made.token in path.name]


def ready(run: Build, step: str, number: int) -> TaskProcess:
    """A task that is about to begin, with little memory, so that it takes long and writes many runs."""
    run.rows_in_memory = ROWS_IN_MEMORY
    try:
        return TaskProcess.ready(run, step, number)
    finally:
        run.rows_in_memory = 0


def kill_repeatedly(run: Build, step: str, number: int, seconds: float, chance: Random) -> int:
    """Kill a task again and again; how often it was still at work."""
    killed = 0
    for _ in range(KILLS):
        killed += ready(run, step, number).kill_after(chance.uniform(0, seconds / 2))
    return killed


@pytest.mark.usefixtures("one_group_a_worker")
def test_killed_extract_stages_nothing_twice(
    sky: CatalogSummary, shaky_build: Callable[..., Build], chance: Random
) -> None:
    run = shaky_build(SPEC.database, rebuild=1)
    plan = run.plan()
    assert len(plan.groups) == 2
    undisturbed = ready(run, "extract", 0).finish()
    killed = kill_repeatedly(run, "extract", 1, undisturbed, chance)
    staged = run.staged_chunks()
    assert len(staged) == len(set(staged))
    run.extract(1)
    expected = sorted(chunk.chunk for group in plan.groups for chunk in group)
    assert run.staged_chunks() == expected
    note(f"{killed} of {KILLS} kills struck; files: {len(run.folder.names(RUNS))}")
    assert run.complete().rows == sky.rows
    run.finish()
    assert_same(run.index(), truth(SPEC).index_rows())


def test_killed_load_goes_on_from_its_markers(
    sky: CatalogSummary, shaky_build: Callable[..., Build], chance: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Build, "slice_rows", SLICE_ROWS)
    run = shaky_build(SPEC.database, rebuild=1)
    run.rows_per_task = 30_000
    run.to_load()
    first, second, *others = [key_range.number for key_range in read_split(run.folder).ranges]
    undisturbed = ready(run, "load", first).finish()
    killed = kill_repeatedly(run, "load", second, undisturbed, chance)
    note(f"{killed} of {KILLS} kills struck; files left: {leftovers(run)}")
    for number in (second, *others):
        run.load(number)
    assert run.publish().rows == sky.rows
    run.finish()
    assert_same(run.index(), truth(SPEC).index_rows())
    assert run.working_tables() == []


def test_files_of_a_killed_load_do_not_stay(sky: CatalogSummary, shaky_build: Callable[..., Build]) -> None:
    run = shaky_build(SPEC.database, rebuild=1)
    run.to_load()
    run.load_all()
    orphan = orphan_of(run, run.plan_made.token)
    run.load_all()
    run.publish()
    run.finish()
    assert not orphan.exists()


def test_files_of_a_dead_run_do_not_stay(sky: CatalogSummary, shaky_build: Callable[..., Build]) -> None:
    first, second = (shaky_build(SPEC.database, run_id=name, rebuild=1, force_takeover=1) for name in ("one", "two"))
    orphan = orphan_of(first, first.plan().token)
    second.plan()
    assert not orphan.exists()


def test_probes_of_dead_plans_do_not_stay(sky: CatalogSummary, shaky_build: Callable[..., Build]) -> None:
    run = shaky_build(SPEC.database, rebuild=1, force_takeover=1)
    old, fresh = (run.sandbox.czar.infile_dir / f"reindex-probe-{name}.tsv" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_text("1\t2\t3\n")
    os.utime(old, (time.time() - 7_200,) * 2)
    run.plan()
    assert not old.exists()
    assert fresh.exists(), "it may be that of a plan at work"
    fresh.unlink()


def test_files_of_another_build_stay(sky: CatalogSummary, shaky_build: Callable[..., Build]) -> None:
    run = shaky_build(SPEC.database, rebuild=1, force_takeover=1)
    run.to_load()
    run.load_all()
    # After the swap the claim is free, and the next run may be at work before this one has tidied up.
    other = orphan_of(run, "0123456789abcdef")
    run.publish()
    assert other.exists()
    other.unlink()


def orphan_of(run: Build, token: str) -> Path:
    """A file as a load leaves it that is killed between its commit and the end of its block."""
    mark = run.servers.tables(run.request).mark
    path = run.sandbox.czar.infile_dir / f"reindex-{mark}-{token}-01234567-0-0.tsv"
    path.write_text("1\t2\t3\n")
    return path


@pytest.mark.usefixtures("one_group_a_worker")
def test_killed_helper_gives_back_what_it_held(
    sky: CatalogSummary, shaky: Sandbox, shaky_build: Callable[..., Build]
) -> None:
    # At 5,000 rows a second a group of 30,000 takes six seconds.
    run = shaky_build(SPEC.database, rebuild=1, max_rows_per_second=5_000)
    plan = run.plan()
    own, other = (group[0].workers[0] for group in plan.groups)
    with ExitStack() as stack:
        # The worker of the task's own group has no connection to spare, so that it reads the other group.
        for _ in range(run.servers.worker_connections):
            assert GroupScheduler(stack.enter_context(session(run.servers.czar)), plan.token, 4).acquire_slot(own)
        czar = stack.enter_context(session(run.servers.czar))
        helper = stack.enter_context(ready(run, "extract", 0))
        helper.release()
        wait_until(lambda: other in connected(shaky))
        # Another task of that group must wait, but with the helper's death its turn comes.
        assert not GroupScheduler(czar, plan.token, 4).begin(1, other)
        assert helper.kill()
        wait_until(lambda: other not in connected(shaky))
        took_over = GroupScheduler(czar, plan.token, 4)
        wait_until(lambda: took_over.begin(1, other))
        took_over.end(1)
        claim.set_limits(czar, run.servers.tables(run.request), Limits())
        run.extract(1)
    run.extract(0)
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    run.complete()
    run.finish()
    assert_same(run.index(), truth(SPEC).index_rows())


def connected(shaky: Sandbox) -> set[str]:
    """The workers that are being read."""
    statement = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'reindex'"
    return {name for name, server in shaky.workers.items() if run_sql(server, statement) != [(0,)]}
