"""What a resume repeats, from the states of a run's tasks and what its folder says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.failures import ConflictError
from airflow_reindex.core.task_records import PLAN, TASKS, TaskRecord
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.metadata import resumable
from airflow_reindex.monitoring.run_info import RunInfo
from airflow_reindex.vectors.model.plan import ITEMS


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path))


def build(state: str = "failed", **changes: Any) -> RunInfo:
    """A build of which one of three extract tasks failed; but for some changes."""
    tasks = {
        "plan": {-1: "success"}, "extract": {0: "success", 1: "failed", 2: "success"}, "split": {-1: "upstream_failed"},
        "load": {-1: "upstream_failed"}, "publish": {-1: "upstream_failed"}, "aggregate": {-1: "failed"},
    }  # fmt: skip
    return RunInfo(dag_id="d", run_id="r", state=state, tasks={**tasks, **changes})


def reindex(state: str, **changes: Any) -> RunInfo:
    """A reindex whose tasks all succeeded; but for some changes."""
    tasks = {
        "plan": {-1: "success"}, "reindex": {0: "success", 1: "success"}, "verify": {-1: "success"},
        "switch": {-1: "success"}, "aggregate": {-1: state},
    }  # fmt: skip
    return RunInfo(dag_id="d", run_id="r", state=state, tasks={**tasks, **changes})


def record(task: str, index: int, **result: Any) -> None:
    made = TaskRecord(task, index, token="t", ended_at="x", result=result)
    run_folder("d", "r").write_json(f"{TASKS}/{task}-{index}.json", asdict(made))


def test_what_succeeded_is_kept() -> None:
    run_folder("d", "r").write_json(PLAN, {})
    assert resumable(build()) == {"extract": 1, "split": 1, "load": 1, "publish": 1, "aggregate": 1}


def test_without_its_plan_a_build_starts_from_the_beginning() -> None:
    assert resumable(build()) == {"plan": 1, "extract": 3, "split": 1, "load": 1, "publish": 1, "aggregate": 1}


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_at_work_cannot_be_resumed(state: str) -> None:
    with pytest.raises(ConflictError, match=f"is {state}"):
        resumable(build(state))


def test_nothing_is_left_of_a_run_that_is_done() -> None:
    assert resumable(build("success")) == {}
    assert resumable(reindex("success")) == {}


def test_windows_with_failed_items_are_repeated_with_all_that_follows_from_them() -> None:
    run_folder("d", "r").write(ITEMS, b"")
    record("reindex", 0, failed=0)
    record("reindex", 1, failed=3)
    assert resumable(reindex("success")) == {"reindex": 1, "verify": 1, "switch": 1, "aggregate": 1}


def test_failures_of_a_catch_up_repeat_every_window() -> None:
    run_folder("d", "r").write(ITEMS, b"")
    record("verify", -1, failed=2)
    assert resumable(reindex("success"))["reindex"] == 2
