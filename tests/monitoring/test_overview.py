"""A run at a glance: true while it goes on, when it has ended, and when its tasks died without a word."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import Code
from airflow_reindex.core.heartbeat import LIVE, ProgressSnapshot
from airflow_reindex.core.report import Failure, Report, Status
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import CANCELED, REPORT, TaskRecord, now
from airflow_reindex.director.model.runs import RUNS, Manifest, StagedChunk
from airflow_reindex.director.mysql.types import Checksum
from airflow_reindex.monitoring.chunks import STATES, Chunks, Planned, look_at_chunks
from airflow_reindex.monitoring.failures import Filter, read_failures
from airflow_reindex.monitoring.overview import _publication, overview
from airflow_reindex.monitoring.rates import estimate
from airflow_reindex.monitoring.run_info import RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot, SnapshotReader, keep
from tests.support.samples import TOKEN, examples, manifest, plan_in, planned, record, stage_in

ALL = ("plan", "extract", "split", "load", "publish", "aggregate")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "run"))


def run(state: str = "running", **changes: Any) -> RunInfo:
    """A run whose plan has ended, and whose two extract tasks are at work; but for some changes."""
    tasks = {name: {-1: "none"} for name in ALL} | {"plan": {-1: "success"}, "extract": {0: "running", 1: "running"}}
    return RunInfo(
        dag_id="build", run_id="r", state=state, tasks={**tasks, **changes}, started_at="2026-01-01T00:00:00.000000Z"
    )


def seen(folder: Folder, info: RunInfo) -> dict[str, Any]:
    return overview(SnapshotReader(folder).read(info), info)


def phase(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(p for p in found["phases"] if p["name"] == name)


def beat(folder: Folder, task: str, index: int, done: int, total: int) -> None:
    made = ProgressSnapshot(
        task=task, index=index, token=TOKEN, started_at=time.time() - 10, at=time.time(), what=task, unit="rows",
        done=done, total=total, recent=2.0,
    )  # fmt: skip
    folder.write_json(f"{LIVE}/{task}-{index}.json", asdict(made))


def test_nothing_is_known_yet(folder: Folder) -> None:
    found = seen(folder, run("queued", plan={-1: "none"}, extract={-1: "none"}))
    assert (found["status"], found["total"], found["progress"], found["chunks"]) == ("pending", None, None, None)
    assert {p["state"] for p in found["phases"]} == {"waiting"}


def test_tasks_at_work(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1)
    record(folder, "extract", 0, ended_at="", started_at=now())
    record(folder, "extract", 1, ended_at="", started_at=now())
    beat(folder, "extract", 0, done=15, total=20)
    beat(folder, "extract", 1, done=4, total=10)
    found = seen(folder, run())
    assert (found["status"], found["live"]) == ("processing", True)
    assert found["chunks"] == {"waiting": 0, "reading": 2, "staged": 1, "adopted": 0, "failed": 0}
    # One staged row, of which the first task's beat knows; 4 rows of the other task.
    assert phase(found, "extract")["done"] == 15 + 4
    assert {worker["name"]: worker["rows"] for worker in found["workers"]} == {"w1": 15, "w2": 4}
    assert all(worker["rate"] > 0 for worker in found["workers"])
    assert phase(found, "extract")["state"] == "running"
    assert phase(found, "extract")["eta"]["low"] <= phase(found, "extract")["eta"]["high"]
    assert 0 < found["progress"] < 1
    assert found["eta"]["seconds"] > 0


def test_beats_of_another_plan_and_of_ended_tasks_do_not_count(folder: Folder) -> None:
    plan_in(folder)
    record(folder, "extract", 0)
    beat(folder, "extract", 0, done=15, total=20)
    beat(folder, "extract", 1, done=4, total=10)
    other = folder.read_json(f"{LIVE}/extract-1.json")
    folder.write_json(f"{LIVE}/extract-1.json", {**other, "token": "another"})
    assert phase(seen(folder, run()), "extract")["done"] == 0


def test_task_that_died_without_a_word(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2)
    record(folder, "extract", 0)
    record(folder, "extract", 1, ended_at="")
    kept = {name: {-1: "upstream_failed"} for name in ("split", "load", "publish")}
    info = run("failed", extract={0: "success", 1: "failed"}, aggregate={-1: "failed"}, **kept)
    found = seen(folder, info)
    assert (found["status"], found["count"], found["failed"], found["progress"]) == ("failed", 2, 1, 1.0)
    assert "extract[1] ended as 'failed' and left no error" in found["detail"]
    assert [phase(found, name)["state"] for name in ("extract", "split", "publish")] == ["failed", "skipped", "skipped"]
    snapshot = SnapshotReader(folder).read(info)
    (row,) = read_failures(folder, snapshot, info).page(Filter(), 0, 10)["rows"]
    assert (row["chunk"], row["worker"]) == (3, "w2")
    assert "without a word" in row["message"]
    assert row["kind"] == "lost_task"


def test_failures_are_shown_before_the_report_is_there(folder: Folder) -> None:
    plan_in(folder)
    failure = Failure(table="Object", worker="w1", chunk=2, message="arbitrary words", kind=Code.MISSING_TABLE)
    record(folder, "extract", 0, failures=[failure], error="1 of 2 chunks failed")
    info = run(extract={0: "failed", 1: "running"})
    assert seen(folder, info)["chunks"]["failed"] == 1
    rows = read_failures(folder, SnapshotReader(folder).read(info), info).page(Filter(), 0, 10)["rows"]
    assert [(row["chunk"], row["message"], row["kind"]) for row in rows] == [(2, failure.message, "missing_table")]


@pytest.mark.parametrize(("at", "status"), [("2026-01-01T00:00:05Z", "canceled"), ("2025-12-31T00:00:00Z", "failed")])
def test_a_cancel_of_an_earlier_life_does_not_count(folder: Folder, at: str, status: str) -> None:
    folder.write_json(CANCELED, {"at": at, "by": "admin"})
    found = seen(folder, run("failed"))
    assert found["status"] == status
    assert ("canceled by admin" in found["detail"]) == (status == "canceled")


def test_a_report_of_an_earlier_life_does_not_count(folder: Folder) -> None:
    plan_in(folder)
    report = {"status": "done", "detail": "", "updated_at": "2025-12-31T00:00:00.000000Z"}
    folder.write_json(REPORT, report)
    assert seen(folder, run("failed"))["status"] == "failed"
    assert seen(folder, run())["status"] == "processing"


@pytest.mark.parametrize(("policy", "words"), [("warn", "the index has their rows as read"), ("reread", "read again")])
def test_chunks_that_changed_meanwhile(folder: Folder, policy: str, words: str) -> None:
    plan_in(folder)
    change = {"chunk": 7, "worker": "w1", "change": "rows 5 -> 4"}
    changed = {"policy": policy, "count": 2, "chunks": [change], "not_compared": {"w2": "away"}}
    report = Report(
        id="r", kind="build_director_index", status=Status.DONE, detail="", source="a", dest="b", total=3, count=3,
        failed=0, rows=5, started_at=None, updated_at="2999-01-01T00:00:00.000000Z", notes={"changed_chunks": changed},
    )  # fmt: skip
    folder.write_json(REPORT, report.as_dict())
    notes = seen(folder, run("success"))["notes"]
    assert notes["Changed meanwhile"].startswith("2 chunk table(s), such as chunk 7 of w1 (rows 5 -> 4): ")
    assert words in notes["Changed meanwhile"]
    assert notes["Not compared again"] == "w2"


def test_what_is_kept_of_a_finished_build_shows_the_same(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2)
    stage_in(folder, 3, name="b", group=1)
    for task, index in (("extract", 0), ("extract", 1), ("split", -1), ("publish", -1)):
        record(folder, task, index)
    done = {name: {-1: "success"} for name in ALL} | {"extract": {0: "success", 1: "success"}}
    info = run("success", **done)
    before = seen(folder, info)
    keep(folder, info)
    for name in ("plan.json", "tasks", RUNS):
        folder.remove(name)
    after = seen(folder, info)
    changing = ("now", "updated_at")
    assert {k: v for k, v in before.items() if k not in changing} == {
        k: v for k, v in after.items() if k not in changing
    }
    assert after["verification"]["state"] == "proven"
    assert after["publication"]["state"] == "done"


@pytest.mark.parametrize("name", ["late_writes", "stragglers"])
def test_what_a_switch_carried_over_is_shown_under_its_former_name_too(name: str) -> None:
    switched = TaskRecord("switch", -1, TOKEN, ended_at=now(), result={"alias": "docs", name: 7})
    snapshot = RunSnapshot(plan={"request": {"deploy_as_blue": True}}, records=[switched])
    tasks = {task: {-1: "success"} for task in ("plan", "reindex", "verify", "switch")}
    info = RunInfo(dag_id="reindex_collection", run_id="r", state="success", tasks=tasks)
    found = _publication(snapshot, info)
    assert found is not None
    assert found["facts"]["Carried over after it"] == "7"


CHUNKS = st.lists(st.integers(0, 60), unique=True, max_size=40)


@given(read=CHUNKS, again=CHUNKS, old=CHUNKS, bad=CHUNKS, running=st.sets(st.integers(0, 3)), live=st.booleans())
@examples(100)
def test_every_chunk_is_in_one_state(
    read: list[int], again: list[int], old: list[int], bad: list[int], running: set[int], live: bool
) -> None:
    old = [chunk for chunk in old if chunk not in read]
    groups = [[planned(chunk, f"w{n}") for chunk in read[n::4]] for n in range(4)]
    manifests = [manifest("a", [c for c in again if c in read]), manifest("old", old, token="before")]
    failures = [Failure(table="t", worker="w", chunk=chunk, message="m") for chunk in bad]
    records = [TaskRecord("extract", 0, failures=failures)]
    found = look_at_chunks(Planned.of(groups), manifests, {manifests[1].name: ()}, records, running, live=live)
    assert found.chunk.tolist() == sorted({*read, *old})
    assert sum(found.counts().values()) == len(found.chunk)
    states = dict(zip(found.chunk.tolist(), (STATES[s] for s in found.state.tolist()), strict=True))
    for chunk, state in states.items():
        if chunk in old:
            assert state == "adopted"
        elif chunk in again:
            assert state == "staged"
        else:
            assert state == ("failed" if chunk in bad or not live else state)
            assert state != "staged"
    assert sum(worker["chunks"] for worker in found.by_worker({}, {})) == len(found.chunk)
    back = Chunks.from_dict(found.as_dict())
    assert back.shown() == found.shown()


def test_rates_of_chunks() -> None:
    made = Manifest(
        f"{RUNS}/g0000-a.json", TOKEN, 0, "l",
        (StagedChunk(1, "w1", "", Checksum(100), 0.5), StagedChunk(2, "w1", "", Checksum(100))), (),
    )  # fmt: skip
    found = look_at_chunks(Planned.of([[planned(1), planned(2)]]), [made], {}, [], (), live=True)
    assert found.rate[0] == 200
    assert np.isnan(found.rate[1])
    assert found.shown()["rate"] == [200, None]


@given(left=st.floats(0, 1e9), overall=st.floats(0, 1e6), recent=st.floats(0, 1e6))
def test_an_estimate_is_a_span(left: float, overall: float, recent: float) -> None:
    found = estimate(left, overall, recent)
    if found is None:
        assert overall == recent == 0
    else:
        assert found.low <= found.seconds <= found.high
