"""Rows to sorted runs: manifests name whole chunks, and nothing else is left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.failures import SpaceError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.extract.run_buffer import RunBuffer, layout
from airflow_reindex.director.model import runs
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.runs import RUNS, StagedChunk, accounted, manifests
from airflow_reindex.director.mysql.types import Checksum
from tests.support.samples import TOKEN, Row, content, examples, make_plan, rows_of, staged

CHUNK = st.tuples(
    st.lists(st.integers(0, 9), max_size=6).map(tuple),  # rows of each batch
    st.booleans(),  # whether it fails after these
)


@given(
    chunks=st.lists(CHUNK, max_size=10),
    capacity=st.sampled_from([1, 10, 13, 25, 1000]),
    file_rows=st.sampled_from([7, 10_000]),
)
@example(chunks=[], capacity=10, file_rows=7)
@example(chunks=[((), False)], capacity=10, file_rows=7)
@examples(80)
def test_manifests_hold_exactly_the_chunks_that_ended(
    tmp_path: Path, chunks: list[tuple[tuple[int, ...], bool]], capacity: int, file_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUPS_IN_FILE", 1)
        collect(Folder.at(str(tmp_path / uuid4().hex)), make_plan(group_rows=file_rows), chunks, capacity)


def collect(folder: Folder, plan: Plan, chunks: list[tuple[tuple[int, ...], bool]], capacity: int) -> None:
    """Stage chunks, and check what is staged."""
    expected: dict[int, list[Row]] = {}
    with RunBuffer(folder, plan, 3, capacity) as buffer:
        key = 1_000_000
        for number, (batches, fails) in enumerate(chunks):
            rows: list[Row] = []
            for size in batches:
                batch = [(key - i * 7 % 1000, number, i) for i in range(size)]
                key -= 1
                rows += batch
                buffer.add(rows_of([r[0] for r in batch], [number] * size, [r[2] for r in batch]))
                assert buffer._used <= len(buffer._rows) == capacity
            if fails:
                buffer.drop_chunk()
                continue
            expected[number] = rows
            total = Checksum.of(rows_of([r[0] for r in rows], [number] * len(rows), [r[2] for r in rows]))
            buffer.end_chunk(StagedChunk(number, "w1", f"mark-{number}", total))
        buffer.flush()
    found = list(manifests(folder))
    assert Counter(c.chunk for m in found for c in m.chunks) == Counter(list(expected))
    assert accounted(found, TOKEN) == found
    for m in found:
        there = [row for file in m.files for row in content(folder, file.name)]
        assert Counter(there) == Counter(row for c in m.chunks for row in expected[c.chunk])
        whole = Checksum.of(rows_of([r[0] for r in there], [r[1] for r in there], [r[2] for r in there]))
        assert whole == sum((c.checksum for c in m.chunks), Checksum())
        assert (m.token, m.group, m.layout) == (TOKEN, 3, layout(plan))
    files = [file for m in found for file in m.files]
    most = min(capacity, plan.group_rows)
    assert all(0 < file.rows <= most for file in files), "a run is no larger than the memory"
    left = {f"{RUNS}/{name}" for name in folder.names(RUNS)}
    assert left == {m.name for m in found} | {file.name for file in files}, "files that no manifest names"
    assert buffer.written >= sum(file.bytes for file in files)


def test_a_dropped_part_of_a_large_chunk_leaves_no_file(folder: Folder) -> None:
    with RunBuffer(folder, make_plan(), 0, 10) as buffer:
        for _ in range(5):
            buffer.add(rows_of(range(10), [1] * 10, [0] * 10))
        assert len(folder.names(RUNS)) >= 3
        buffer.drop_chunk()
        buffer.flush()
    assert folder.names(RUNS) == []


def fill_disk(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """After so many runs there is no room for another one."""
    real = runs.write_run

    def write(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise SpaceError("no room")
        return real(*args)

    monkeypatch.setattr(run_buffer, "write_run", write)


def test_what_was_complete_before_an_error_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 3)

    def fill() -> None:
        with RunBuffer(folder, make_plan(), 0, 10) as buffer:
            for chunk in range(9):
                rows = rows_of(range(8), [chunk] * 8, [0] * 8)
                buffer.add(rows)
                buffer.end_chunk(staged(chunk, checksum=Checksum.of(rows)))
            buffer.flush()

    with pytest.raises(SpaceError):
        fill()
    found = list(manifests(folder))
    assert [[chunk.chunk for chunk in m.chunks] for m in found] == [[0], [1], [2]]
    assert [len(content(folder, file.name)) for m in found for file in m.files] == [8, 8, 8]


@pytest.mark.parametrize("good", [0, 1, 3, 4])
def test_a_part_that_cannot_be_written_leaves_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    fill_disk(monkeypatch, good)

    def fill() -> None:
        with RunBuffer(folder, make_plan(), 0, 10) as buffer:
            buffer.add(rows_of(range(45), [1] * 45, [0] * 45))
            buffer.end_chunk(staged(1))
            buffer.flush()

    with pytest.raises(SpaceError):
        fill()
    assert folder.names(RUNS) == []


def test_runs_of_other_columns_have_another_layout() -> None:
    plans = [
        make_plan(),
        make_plan(key_type="BIGINT UNSIGNED"),
        make_plan(key_column="id"),
        make_plan(sub_chunk_type="BIGINT NOT NULL"),
    ]
    assert len({layout(plan) for plan in plans}) == 4
    assert layout(make_plan(token="other")) == layout(make_plan())
