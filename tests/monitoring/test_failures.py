"""The table of failures: filters, pages, kinds, and cells that no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import Code
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Report, Status, error_map
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT
from airflow_reindex.director.report import ERRORS, FAILURES, write_failures
from airflow_reindex.monitoring.failures import COLUMNS, Failures, Filter, read_failures
from airflow_reindex.monitoring.run_info import RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot

LABELS = {name: name for name in COLUMNS}


def table(messages: list[str]) -> Failures:
    count = len(messages)
    said = pa.chunked_array([pa.array(messages, pa.string())])
    kinds = pa.chunked_array([pa.array([f"kind{n % 2}" for n in range(count)], pa.string())])
    columns = [["Object"] * count, [f"w{n % 3}" for n in range(count)], list(range(count)), kinds, said]
    return Failures(pa.table(columns, names=list(COLUMNS)), LABELS)


@given(cells=st.lists(st.text(), max_size=20), sort=st.sampled_from(COLUMNS), descending=st.booleans())
def test_csv_has_every_cell_and_no_formula(cells: list[str], sort: str, descending: bool) -> None:
    text = "".join(table(cells).csv(Filter(sort=sort, descending=descending)))
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert sorted(row[4].removeprefix("'") for row in rows) == sorted(cell.removeprefix("'") for cell in cells)
    assert not any(row[4].startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in rows)


@given(messages=st.lists(st.text(), min_size=1, max_size=30), text=st.text(max_size=3))
def test_filter_finds_what_contains_the_text(messages: list[str], text: str) -> None:
    found = table(messages).page(Filter(text=text), 0, 100)
    assert found["total"] == len(messages)
    assert found["matched"] >= sum(text in message for message in messages)
    assert sum(kind["count"] for kind in found["kinds"]) == found["matched"]


def test_pages_and_filters() -> None:
    failures = table([f"message {n}" for n in range(100)])
    page = failures.page(Filter(sort="chunk", descending=True), 10, 5)
    assert [row["chunk"] for row in page["rows"]] == [89, 88, 87, 86, 85]
    assert failures.page(Filter(worker="w1"), 0, 100)["matched"] == 33
    assert failures.page(Filter(kind="nothing"), 0, 100)["matched"] == 0
    assert page["kinds"] == [{"kind": "kind0", "count": 50}, {"kind": "kind1", "count": 50}]


def tasks(*names: str) -> RunInfo:
    return RunInfo(dag_id="d", run_id="r", state="running", tasks={name: {-1: "success"} for name in names})


def failed(count: int) -> list[Failure]:
    return [
        Failure(
            table="Object", worker="w", chunk=n, message=f"any words, {n}", kind=(Code.ACCESS, Code.DISK_FULL)[n % 2]
        )
        for n in range(count)
    ]


def ended(folder: Folder, failures: list[Failure]) -> tuple[RunSnapshot, RunInfo]:
    """A build that has ended with failures, and its report."""
    report = Report(
        id="r", kind="build_director_index", status=Status.FAILED, detail="x", source="a", dest="b", total=900, count=0,
        failed=900, rows=0, started_at=None, updated_at="2999-01-01T00:00:00Z", failed_items=failures[:QUOTED_FAILURES],
        error_ext=error_map(failures[:QUOTED_FAILURES]),
    )  # fmt: skip
    folder.write_json(REPORT, report.as_dict())
    write_failures(folder, failures)
    info = RunInfo(dag_id="d", run_id="r", state="failed", tasks={"plan": {-1: "success"}, "extract": {0: "failed"}})
    return RunSnapshot(plan=None, report=folder.read_json(REPORT)), info


@pytest.mark.parametrize("count", [4, 300])
def test_kinds_are_those_that_were_set(tmp_path: Path, count: int) -> None:
    folder = Folder.at(str(tmp_path))
    page = read_failures(folder, *ended(folder, failed(count))).page(Filter(kind="disk_full"), 0, 1_000)
    assert page["kinds"] == [{"kind": "access", "count": count // 2}, {"kind": "disk_full", "count": count // 2}]
    assert [row["chunk"] for row in page["rows"]] == list(range(1, count, 2))
    assert (page["total"], page["rows"][0]["message"]) == (count, "any words, 1")


def test_reports_of_earlier_versions_have_no_kinds(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    snapshot, info = ended(folder, failed(300))
    folder.remove(FAILURES)
    old = read_failures(folder, snapshot, info).page(Filter(), 0, 10)
    assert (old["total"], old["kinds"]) == (300, [{"kind": "other", "count": 300}])
    folder.remove(ERRORS)
    for failure in snapshot.report["failed_items"] if snapshot.report else ():
        del failure["kind"]
    few = read_failures(folder, snapshot, info).page(Filter(), 0, 10)
    assert (few["total"], few["kinds"]) == (100, [{"kind": "other", "count": 100}])


def test_failed_items_of_windows_that_have_ended(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    item = {
        "collection": "c",
        "window": "offset 0",
        "failure_stage": "on_upsert",
        "detail": "=no",
        "item_info": {"a": [1]},
    }
    lines = [json.dumps({**item, "object_id": f"é{n}"}, ensure_ascii=False) for n in range(5)]
    folder.write("windows/0.ndjson", "\n".join(lines).encode())
    folder.write("windows/verify.ndjson", lines[0].encode())
    folder.write("windows/1.ndjson", b"")
    page = read_failures(folder, RunSnapshot(plan=None), tasks("plan", "reindex", "verify")).page(Filter(), 0, 10)
    assert [row["chunk"] for row in page["rows"]] == [f"é{n}" for n in range(5)]
    assert page["columns"]["chunk"] == "Item"
    assert page["rows"][0]["kind"] == "on_upsert"


@pytest.mark.parametrize("names", [("plan", "extract", "load"), ("plan", "reindex", "verify")])
def test_nothing_has_failed_yet(tmp_path: Path, names: tuple[str, ...]) -> None:
    page = read_failures(Folder.at(str(tmp_path)), RunSnapshot(plan=None), tasks(*names)).page(Filter(), 0, 10)
    assert (page["total"], page["rows"], page["kinds"], page["workers"]) == (0, [], [], [])
