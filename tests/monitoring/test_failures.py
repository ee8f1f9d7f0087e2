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

from airflow_reindex.core.staging import Folder
from airflow_reindex.monitoring.failures import COLUMNS, Failures, Filter, kinds_of, read_failures
from airflow_reindex.monitoring.run_info import RunFacts
from airflow_reindex.monitoring.run_snapshot import Material

LABELS = {name: name for name in COLUMNS}


def table(messages: list[str]) -> Failures:
    count = len(messages)
    said = pa.chunked_array([pa.array(messages, pa.string())])
    columns = [["Object"] * count, [f"w{n % 3}" for n in range(count)], list(range(count)), kinds_of(said), said]
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


def test_kinds_are_alike_for_other_names_and_numbers() -> None:
    messages = [f"error: Table 'sky.Object_{n}' doesn't exist, errno: 1146" for n in range(3)]
    messages += ["Can't connect to server on 'db1' (115), errno: 2002"]
    kinds = kinds_of(pa.chunked_array([messages])).to_pylist()
    assert kinds[:3] == ["error: Table … doesn't exist, errno 1146"] * 3
    assert kinds[3] == "Can't connect to server on … (N), errno 2002"


def test_pages_and_filters() -> None:
    failures = table([f"message {n}" for n in range(100)])
    page = failures.page(Filter(sort="chunk", descending=True), 10, 5)
    assert [row["chunk"] for row in page["rows"]] == [89, 88, 87, 86, 85]
    assert failures.page(Filter(worker="w1"), 0, 100)["matched"] == 33
    assert failures.page(Filter(kind="nothing"), 0, 100)["matched"] == 0
    assert page["kinds"] == [{"kind": "message N", "count": 100}]


def tasks(*names: str) -> RunFacts:
    return RunFacts(dag_id="d", run_id="r", state="running", tasks={name: {-1: "success"} for name in names})


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
    page = read_failures(folder, Material(plan=None), tasks("plan", "reindex", "verify")).page(Filter(), 0, 10)
    assert [row["chunk"] for row in page["rows"]] == [f"é{n}" for n in range(5)]
    assert page["columns"]["chunk"] == "Item"
    assert page["rows"][0]["kind"] == "on_upsert"


@pytest.mark.parametrize("names", [("plan", "extract", "load"), ("plan", "reindex", "verify")])
def test_nothing_has_failed_yet(tmp_path: Path, names: tuple[str, ...]) -> None:
    page = read_failures(Folder.at(str(tmp_path)), Material(plan=None), tasks(*names)).page(Filter(), 0, 10)
    assert (page["total"], page["rows"], page["kinds"], page["workers"]) == (0, [], [], [])
