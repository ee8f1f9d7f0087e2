"""The report: JSON of plain types, and Qserv's map of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import DETAIL_LIMIT, Code
from airflow_reindex.core.report import Failure, Phase, Report, Status, error_map
from tests.support.samples import examples


def make_report(**changes: Any) -> Report:
    """A report of a run that is done."""
    fields: dict[str, Any] = {
        "id": "run",
        "kind": "job",
        "status": Status.DONE,
        "detail": "",
        "source": "a.b",
        "dest": "c.d",
        "total": 3,
        "count": 3,
        "failed": 0,
        "rows": 9,
        "started_at": None,
        "updated_at": "2026-01-01T00:00:00Z",
    }
    return Report(**{**fields, **changes})


@pytest.mark.parametrize(
    ("total", "count", "failed", "progress"), [(3, 3, 0, 1.0), (4, 1, 1, 0.5), (0, 0, 0, 1.0), (3, 0, 0, 0.0)]
)
def test_progress(total: int, count: int, failed: int, progress: float) -> None:
    assert make_report(total=total, count=count, failed=failed).progress == progress


def test_a_report_is_plain_json() -> None:
    failure = Failure(table="t", worker="w", chunk=1, message="m", kind=Code.ACCESS)
    phase = Phase(name="load", rows=9, seconds=1.5, tasks=2)
    report = make_report(
        status=Status.FAILED,
        count=2,
        failed=1,
        failed_items=[failure],
        error_ext=error_map([failure]),
        phases=[phase],
        children={"load": {"success": 2}},
    )
    value = json.loads(json.dumps(report.as_dict()))
    assert value == report.as_dict()
    assert value["status"] == "failed"
    assert type(report.as_dict()["status"]) is str
    assert value["failed_items"] == [{"table": "t", "worker": "w", "chunk": 1, "message": "m", "kind": "access"}]
    assert Failure.from_dict(value["failed_items"][0]) == failure
    assert value["phases"] == [{"name": "load", "rows": 9, "seconds": 1.5, "tasks": 2}]
    assert value["progress"] == 1.0


NAMES = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.builds(Failure, table=NAMES, worker=NAMES, chunk=st.integers(0, 3), message=NAMES), max_size=30))
@examples(100)
def test_no_failure_is_left_out_of_the_map(failures: list[Failure]) -> None:
    made = error_map(failures)
    for failure in failures:
        assert failure.message in made[failure.table][failure.worker][str(failure.chunk)].split("; ")
    there = {(t, w, int(c)) for t, workers in made.items() for w, chunks in workers.items() for c in chunks}
    assert there == {(f.table, f.worker, f.chunk) for f in failures}


def test_messages_of_one_chunk_are_joined_and_bounded() -> None:
    def said(*messages: str) -> str:
        made = error_map([Failure(table="t", worker="w", chunk=7, message=message) for message in messages])
        assert list(made["t"]["w"]) == ["7"]
        return made["t"]["w"]["7"]

    assert said("one", "two") == "one; two"
    assert said("one", "one") == "one"
    assert len(said("x" * 1400, "y" * 1400)) == DETAIL_LIMIT


@pytest.mark.parametrize("more", [{}, {"kind": ""}, {"kind": "of a later version"}])
def test_a_failure_of_another_version_is_of_some_other_kind(more: dict[str, str]) -> None:
    old = {"table": "t", "worker": "w", "chunk": 1, "message": "error: Unknown table, errno: 1146", **more}
    assert Failure.from_dict(old).kind is Code.OTHER
