"""The failed chunks of a report: each chunk is either counted or failed, with what its task said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import Code
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Status
from airflow_reindex.core.run_outcome import task_states
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model.records import write_plan
from airflow_reindex.director.report import ERRORS, FAILURES, STEPS, make_report, write_failures
from tests.director.reporting import done, failure, report_on, states_of
from tests.support.samples import TOKEN, examples, make_plan, plan_in, planned, record, stage_in


def test_a_chunk_whose_task_was_lost_without_a_word(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2)
    record(folder, "extract", 0)
    report = report_on(folder, states_of(extract_1="failed", split="upstream_failed", publish="upstream_failed"))
    assert (report.status, report.count, report.failed) == (Status.FAILED, 2, 1)
    (lost,) = report.failed_items
    assert (lost.table, lost.worker, lost.chunk) == ("Object", "w2", 3)
    assert lost.message.startswith("the task extract[1] ended as 'failed' and left no error")
    assert lost.kind == report.code == "lost_task"
    assert report.error_ext == {"Object": {"w2": {"3": lost.message}}}
    assert report.detail == lost.message


def test_a_chunk_whose_task_died_in_its_middle(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 3)
    record(folder, "extract", 0, ended_at="", error="of no meaning yet")
    (lost,) = report_on(folder, states_of(extract_0="failed")).failed_items
    assert (lost.chunk, lost.worker) == (2, "w1")
    assert lost.message.startswith("the task extract[0] ended as 'failed'")


def test_a_chunk_is_told_what_its_task_said(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 3)
    record(folder, "extract", 0, error="the claim was lost", failures=[])
    report = report_on(folder, states_of(extract_0="failed"))
    assert {f.chunk: f.message for f in report.failed_items} == {1: "the claim was lost", 2: "the claim was lost"}
    assert report.detail == "extract[0]: the claim was lost"


def test_a_chunk_that_failed_on_all_replicas_is_one_chunk(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 2, 3)
    failures = [failure(1, "no table"), failure(1, "lost", "w2")]
    record(folder, "extract", 0, error="1 of 2 chunks failed", failures=failures)
    report = report_on(folder, states_of(extract_0="failed"))
    assert report.failed == 1
    assert report.failed_items == failures
    assert report.error_ext == {"Object": {"w1": {"1": "no table"}, "w2": {"1": "lost"}}}


@pytest.mark.parametrize(
    ("task", "error", "bad"),
    # The one is of a try that staged the chunk after all, but died before it could write its own record.
    [("extract", "1 of 2 chunks failed", False), ("load", "", True)],
    ids=["a later try mended it", "duplicate keys"],
)
def test_a_published_build_with_failures_in_a_record(folder: Folder, task: str, error: str, bad: bool) -> None:
    done(folder)
    record(folder, task, 0, error=error, failures=[failure(1)])
    report = report_on(folder)
    assert report.status is (Status.FAILED if bad else Status.DONE)
    assert (report.failed, bool(report.error_ext)) == (int(bad), bad)


def test_records_and_runs_of_another_plan_are_ignored(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2)
    stage_in(folder, 3, name="z", token="other")
    record(folder, "extract", 0, token="other", error="old", failures=[failure(1, "old")])
    record(folder, "load", 0, token="other", error="old", failures=[failure(2, "old")])
    report = report_on(folder, states_of(extract_1="failed"))
    assert {f.chunk for f in report.failed_items} == {3}
    assert "old" not in report.detail
    assert [phase.name for phase in report.phases] == ["plan"]


def test_duplicate_keys_fail_their_chunks_though_they_are_staged(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1, 2, 3)
    record(folder, "load", 0, error="duplicate keys in 2 chunks", failures=[failure(1), failure(3, worker="w2")])
    report = report_on(folder, states_of(load_0="failed", publish="upstream_failed"))
    assert (report.status, report.count, report.failed) == (Status.FAILED, 1, 2)
    assert report.detail == "load[0]: duplicate keys in 2 chunks"


def test_codes_come_from_what_was_recorded(folder: Folder) -> None:
    plan_in(folder)
    read = replace(failure(1, "arbitrary words"), kind=Code.ACCESS)
    record(folder, "extract", 0, error="1 of 2 chunks failed", code=Code.ACCESS, failures=[read])
    record(folder, "extract", 1, error="a disk", code=Code.DISK_FULL)
    report = report_on(folder, states_of(extract_0="failed", extract_1="failed"))
    assert {item.chunk: item.kind.value for item in report.failed_items} == {1: "access", 2: "access", 3: "disk_full"}
    assert report.code == "access"
    assert report.as_dict()["failed_items"][0]["kind"] == "access"


def test_the_earliest_steps_error_explains(folder: Folder) -> None:
    plan_in(folder)
    stage_in(folder, 1)
    for task, index in (("publish", -1), ("split", -1), ("extract", 1), ("extract", 0)):
        record(folder, task, index, error=f"{task} {index} broke")
    report = report_on(folder, states_of(extract_0="failed", extract_1="failed"))
    assert report.detail == "extract[0]: extract 0 broke (and 1 more extract tasks failed)"


@pytest.mark.parametrize(("count", "quoted"), [(QUOTED_FAILURES, False), (QUOTED_FAILURES + 1, True), (150, True)])
def test_many_failures_are_quoted_and_written_beside(folder: Folder, count: int, quoted: bool) -> None:
    plan = make_plan([[planned(chunk) for chunk in range(count)]])
    write_plan(folder, plan)
    record(folder, "plan")
    report, failures = make_report(folder, "run", states_of(extract_0="failed"), "a", "b")
    assert (report.failed, report.count, report.total) == (count, 0, count)
    assert len(report.failed_items) == QUOTED_FAILURES
    assert len(report.error_ext["Object"]["w1"]) == QUOTED_FAILURES
    assert report.notes.get("failures_in_all") == (count if quoted else None)
    write_failures(folder, failures)
    whole = folder.read_json(ERRORS)
    assert (whole is not None) == quoted
    assert len(folder.read_json(FAILURES) or []) == (count if quoted else 0)
    if quoted:
        assert set(whole["Object"]["w1"]) == {str(chunk) for chunk in range(count)}


def test_a_later_report_has_no_failures_of_an_earlier_one_beside_it(folder: Folder) -> None:
    plan_in(folder)
    write_failures(folder, [failure(chunk) for chunk in range(QUOTED_FAILURES + 1)])
    write_failures(folder, [failure(1)])
    assert folder.names() == ["groups-" + TOKEN + ".ndjson", "plan.json", "tasks"]


TASK_STATES = st.sampled_from(["success", "failed", "upstream_failed", "skipped", "none", "removed"])
RECORDS = st.tuples(
    st.sampled_from(["extract", "split", "load", "publish"]),
    st.integers(0, 3),
    st.sampled_from([TOKEN, "other"]),
    st.sampled_from(["", "broke"]),
    st.lists(st.builds(failure, st.integers(0, 11), st.just("m"), st.sampled_from(["w1", "w2"])), max_size=4),
)


@given(
    sizes=st.lists(st.integers(1, 4), max_size=3),
    staged=st.lists(st.sets(st.integers(0, 11), max_size=4), max_size=4),
    left=st.lists(RECORDS, max_size=6),
    extract=st.lists(TASK_STATES, max_size=4),
    publish=st.booleans(),
)
@examples(80)
def test_each_chunk_is_either_counted_or_failed(
    tmp_path: Path,
    sizes: list[int],
    staged: list[set[int]],
    left: list[tuple[str, int, str, str, list[Failure]]],
    extract: list[str],
    publish: bool,
) -> None:
    folder, number, groups = Folder.at(str(tmp_path / uuid4().hex)), 0, []
    for size in sizes:
        groups.append([planned(number + i) for i in range(size)])
        number += size
    write_plan(folder, make_plan(groups))
    record(folder, "plan")
    for i, chunks in enumerate(staged):
        stage_in(folder, *(chunk for chunk in chunks if chunk < number), name=f"{i}")
    for task, index, token, error, failures in left:
        mine = [f for f in failures if f.chunk < number]
        record(folder, task, index, token=token, error=error, failures=mine, result={})
    if publish:
        record(folder, "publish")
    states = {"plan": "success", **{f"extract_{i}": state for i, state in enumerate(extract)}}
    report = report_on(folder, task_states(states, STEPS))
    assert report.total == number
    there: set[int] = set()
    for chunks in (m for m in staged if m):
        mine_here = {chunk for chunk in chunks if chunk < number}
        if not mine_here & there:
            there |= mine_here
    last = {(task, index): (token, failures) for task, index, token, _, failures in left}
    loads = [fs for (task, _), (token, fs) in last.items() if (task, token) == ("load", TOKEN)]
    bad_keys = {f.chunk for fs in loads for f in fs if f.chunk < number}
    assert {f.chunk for f in report.failed_items} == (set(range(number)) - there) | bad_keys
    assert report.status is (Status.DONE if publish and not report.failed else Status.FAILED)
