"""A build after a build reads only the chunks that have changed, and has the rows of all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_reindex.core.report import Status
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT
from airflow_reindex.director.model.runs import RUNS, manifests
from airflow_reindex.director.report import drop_build
from tests.director.failing import change
from tests.director.sky import Sky, killed_after
from tests.support.build import Build, Factory, assert_same, count_reads
from tests.support.claims import finish

DAG = "build_director_index"

pytestmark = pytest.mark.usefixtures("clean")


def end(run: Build) -> None:
    """The rest of a planned build, with its report."""
    finish(run)
    run.folder.write_json(REPORT, {"status": Status.DONE})
    drop_build(run.folder, run.kept)


def test_a_change_after_each_failed_run_is_read_and_nothing_else(
    changing: Sky, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    one, two = changing.chunks[1], changing.chunks[-2]
    # The same chunk changes twice, another one once.
    for number, changed in enumerate(([], [one], [one, two], [])):
        changing.change(changed)
        run = build(changing.made.spec.database, run_id=f"run {number}")
        run.states[DAG, f"run {number - 1}"] = "failed"
        reads.clear()
        run.plan()
        run.extract_all()
        assert sorted(reads) == sorted(changed if number else changing.everything())
    run.complete()
    assert_same(run.index(), changing.rows())


def test_a_run_of_which_little_is_left_is_read_again_whole(
    changing: Sky, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(changing.made.spec.database, run_id="first")
    first.plan()
    first.extract_all()
    large = max(manifests(first.folder), key=lambda m: m.rows)
    others = [m for m in manifests(first.folder) if m.name != large.name]
    inside = [chunk.chunk for chunk in large.chunks]
    by_size = sorted(inside, key=lambda chunk: changing.made.row_counts.get(chunk, 0))
    # All but the smallest ones.
    changing.change(by_size[-(len(inside) * 3 // 4) :])
    reads = count_reads(monkeypatch)
    second = build(changing.made.spec.database, run_id="second")
    second.states[DAG, "first"] = "failed"
    plan = second.plan()
    assert set(plan.adopted) == {m.name for m in others}
    assert sorted(second.folder.names(RUNS)) == sorted(
        name.removeprefix(f"{RUNS}/") for m in others for name in (m.name, *(file.name for file in m.files))
    )
    finish(second)
    assert sorted(reads) == sorted(inside)
    assert_same(second.index(), changing.rows())


def test_kept_runs_of_a_build_serve_the_next_one(
    changing: Sky, build: Factory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads, kept = count_reads(monkeypatch), Folder.at(str(tmp_path / "kept"))
    changed_each_time: list[list[int]] = [[], changing.chunks[:2], [], changing.chunks[1:3]]
    for number, changed in enumerate(changed_each_time):
        changing.change(changed)
        run = build(changing.made.spec.database, run_id=f"run {number}", rebuild=1)
        run.kept = kept
        reads.clear()
        plan = run.plan()
        assert plan.chunks == len(changing.everything())
        assert kept.names(RUNS) == [], "what was not adopted is of no use to anybody"
        end(run)
        assert sorted(reads) == sorted(changed if number else changing.everything())
        assert_same(run.index(), changing.rows())
        assert run.folder.names() == ["report.json"]
        assert {chunk.chunk for m in manifests(kept) for chunk in m.chunks} == set(changing.everything())


def test_a_dry_run_leaves_kept_runs_alone(changing: Sky, build: Factory, tmp_path: Path) -> None:
    kept = Folder.at(str(tmp_path / "kept"))
    run = build(changing.made.spec.database, run_id="first", rebuild=1)
    run.kept = kept
    run.plan()
    end(run)
    before = kept.names(RUNS)
    dry = build(changing.made.spec.database, run_id="dry", rebuild=1, dry_run=1)
    dry.kept = kept
    dry.plan()
    assert kept.names(RUNS) == before != []


@pytest.mark.parametrize("moves", [0, 1, 2, 3, 5])
def test_a_plan_that_dies_while_it_takes_over_kept_runs_can_be_made_again(
    changing: Sky, build: Factory, tmp_path: Path, moves: int
) -> None:
    kept = Folder.at(str(tmp_path / "kept"))
    first = build(changing.made.spec.database, run_id="first", rebuild=1)
    first.kept, first.rows_in_memory = kept, 800
    first.plan()
    end(first)
    changing.change(changing.chunks[3:4])

    second = build(changing.made.spec.database, run_id="second", rebuild=1)
    second.kept = kept
    with killed_after(moves):
        second.plan()
    plan = second.plan()
    at_once = 6
    assert len(changing.everything()) - 2 * at_once <= plan.adopted_chunks < len(changing.everything())
    end(second)
    assert_same(second.index(), changing.rows())


def test_without_a_place_nothing_is_kept(changing: Sky, build: Factory, tmp_path: Path) -> None:
    run = build(changing.made.spec.database, rebuild=1)
    run.plan()
    end(run)
    assert run.folder.names() == ["report.json"]
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("options", "adopted"), [("TRANSACTIONAL=1", False), ("TRANSACTIONAL=0", True)])
def test_aria_tables_that_log_their_changes_are_read_again(
    changing: Sky, build: Factory, monkeypatch: pytest.MonkeyPatch, options: str, adopted: bool
) -> None:
    chunk, *_ = changing.chunks
    change(changing.sandbox, changing.made, chunk, "ALTER TABLE {table} ENGINE=Aria " + options)
    server = changing.sandbox.workers[changing.made.placement[chunk][0]]
    change(changing.sandbox, changing.made, chunk, "FLUSH TABLES {table}")
    hour_ago = time.time() - 3600
    os.utime(server.data_dir / changing.made.spec.database / f"Object_{chunk}.MAD", (hour_ago, hour_ago))
    first = build(changing.made.spec.database, run_id="first")
    first.plan()
    first.extract_all()
    if not adopted:
        change(changing.sandbox, changing.made, chunk, "UPDATE {table} SET subChunkId = subChunkId + 1 LIMIT 20")
    reads = count_reads(monkeypatch)
    second = build(changing.made.spec.database, run_id="second")
    second.states[DAG, "first"] = "failed"
    second.plan()
    finish(second)
    assert (chunk in reads) != adopted
    assert_same(second.index(), changing.rows())
