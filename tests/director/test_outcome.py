"""The report of a build: each chunk is accounted for, and ``done`` only with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.report import Status
from airflow_reindex.core.run_outcome import task_states
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT
from airflow_reindex.director.report import STEPS, drop_build
from tests.director.reporting import done, report_on, states_of
from tests.support.samples import BEGIN, plan_in, record, stage_in


def test_task_states() -> None:
    found = {
        "plan": "success",
        "extract_0": "failed",
        "extract_12": None,
        "load_3": "success",
        "aggregate": "running",
        "extract_x": "failed",
        "my_plan": "failed",
        "plan_b": "failed",
    }
    assert task_states(found, STEPS) == {
        "plan": {-1: "success"},
        "extract": {0: "failed", 12: "none"},
        "split": {},
        "load": {3: "success"},
        "publish": {},
    }


def test_all_is_done(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2)
    stage_in(folder, 3, name="b", group=1)
    for task, index in (("extract", 0), ("extract", 1), ("split", -1), ("load", 0), ("publish", -1)):
        record(folder, task, index)
    report = report_on(folder)
    assert (report.status, report.total, report.count, report.failed, report.rows) == (Status.DONE, 3, 3, 0, 30)
    assert report.progress == 1.0
    assert report.started_at == BEGIN
    assert report.children == {
        "plan": {"success": 1},
        "extract": {"success": 2},
        "split": {"success": 1},
        "load": {"success": 1},
        "publish": {"success": 1},
    }
    assert [(phase.name, phase.tasks, phase.rows, phase.seconds) for phase in report.phases] == [
        ("plan", 1, 30, 10.5),
        ("extract", 2, 60, 10.5),
        ("split", 1, 30, 10.5),
        ("load", 1, 30, 10.5),
        ("publish", 1, 30, 10.5),
    ]


def test_done_needs_no_other_records_than_the_proof(folder: Folder) -> None:
    done(folder)
    report = report_on(folder)
    assert (report.status, report.code) == (Status.DONE, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "other"},
        {"token": ""},
        {"error": "swap failed"},
        {"error": "swap failed", "result": {"rows": 30, "previous": None}},
        {"result": {}},
    ],
)
def test_without_a_proof_it_is_not_done(folder: Folder, changes: dict[str, Any]) -> None:
    done(folder, **changes)
    report = report_on(folder)
    assert (report.status, report.rows) == (Status.FAILED, 0)
    assert (report.count, report.failed) == (3, 0)


def test_no_publish_record_at_all(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2, 3)
    report = report_on(folder)
    assert report.status is Status.FAILED
    assert report.detail == "the index was not published, and no task says why"
    killed = report_on(folder, states_of(publish="failed"))
    assert killed.detail.startswith("the task publish ended as 'failed' and left no error")


def test_notes(folder: Folder) -> None:
    plan_in(folder, unchecked=("that it is published",), adopted={"runs/g0000-old.json": ()}, adopted_chunks=2)
    stage_in(folder, 7, 8, name="old", token="earlier")
    stage_in(folder, 1, 2, 3)
    record(folder, "publish", result={"rows": 30, "previous": "lsst__Object__previous"})
    report = report_on(folder)
    assert (report.status, report.total) == (Status.DONE, 5)
    index = report.notes["index"]
    assert (index["database"], index["table"], index["unique"]) == ("qservMeta", "lsst__Object", True)
    assert index["columns"] == {"objectId": "BIGINT NOT NULL", "chunkId": "INT", "subChunkId": "INT NOT NULL"}
    assert {name: note for name, note in report.notes.items() if name != "index"} == {
        "not_checked": ("that it is published",),
        "previous": "lsst__Object__previous",
        "adopted_chunks": 2,
    }


@pytest.mark.parametrize(("refused", "status"), [(True, Status.REFUSED), (False, Status.FAILED)])
def test_the_plan_was_refused_or_failed(folder: Folder, refused: bool, status: Status) -> None:
    record(folder, "plan", token="", error="no such database", refused=refused)
    report = report_on(folder, task_states({"plan": "failed", "split": "upstream_failed"}, STEPS))
    assert (report.status, report.detail, report.total) == (status, "no such database", 0)


@pytest.mark.parametrize("started", [True, False])
def test_the_plan_died_silently(folder: Folder, started: bool) -> None:
    if started:
        record(folder, "plan", token="", ended_at="")
    report = report_on(folder, task_states({"plan": "failed"}, STEPS))
    assert report.status is Status.FAILED
    assert report.detail.startswith("the task plan ended as 'failed' and left no error")


@pytest.mark.parametrize("recorded", [True, False])
def test_a_task_of_a_done_run_is_cleared_without_its_plan(folder: Folder, recorded: bool) -> None:
    """The plan went when the run was done: to clear the failed task once more would be vain."""
    record(folder, "plan", token="")
    if recorded:
        record(folder, "extract", 0, token="", error="the plan is not there")
    report = report_on(
        folder, task_states({"plan": "success", "extract_0": "failed", "split": "upstream_failed"}, STEPS)
    )
    assert (report.status, report.total) == (Status.FAILED, 0)
    gone = "the task extract[0] ended as 'failed'; the plan of this run is gone, as the run was done once: "
    expected = "extract[0]: the plan is not there" if recorded else f"{gone}clear the run from its task 'plan' on."
    assert report.detail == expected


def test_a_plan_of_an_earlier_life_does_not_count(folder: Folder) -> None:
    done(folder)
    assert report_on(folder, states_of(plan="failed")).status is Status.FAILED, "it was killed after its record"
    record(folder, "plan", token="", error="the index exists", refused=True)
    report = report_on(folder, states_of(plan="failed"))
    assert (report.status, report.detail, report.total) == (Status.REFUSED, "the index exists", 0)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_dry_run(folder: Folder, earlier: bool) -> None:
    if earlier:
        done(folder)
    record(folder, "plan", token="", result={"dry_run": True, "chunks": 3, "rows": 30})
    report = report_on(folder, task_states({"plan": "success", "split": "skipped"}, STEPS))
    assert (report.status, report.total, report.rows) == (Status.PENDING, 0, 0)
    assert report.notes["chunks"] == 3
    assert "nothing was changed" in report.detail


def test_of_a_build_that_is_done_the_report_and_the_sorted_runs_stay(folder: Folder, tmp_path: Path) -> None:
    done(folder)
    folder.write_json(REPORT, report_on(folder).as_dict())
    kept = Folder.at(str(tmp_path / "kept"))
    drop_build(folder, kept)
    assert folder.names() == [REPORT]
    assert kept.names()
