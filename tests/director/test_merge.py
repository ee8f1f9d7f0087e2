"""Runs to slices in key order: no row lost, none twice, and all duplicates found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.load import merge
from airflow_reindex.director.load.duplicates import QUOTED_CHUNKS, QUOTED_KEYS, Duplicates
from airflow_reindex.director.load.merge import Merger
from airflow_reindex.director.model import runs
from airflow_reindex.director.model.runs import Manifest
from airflow_reindex.director.model.split import KeyRange, RunFiles, make_split
from airflow_reindex.director.mysql.types import Rows
from tests.support.samples import TOKEN, Row, examples, rows_of, stage, tuples


@st.composite
def pieces_of_runs(draw: st.DrawFn) -> list[list[Rows]]:
    """The files of several manifests, of one key type; each file holds rows of its own chunk."""
    kind = draw(st.sampled_from(["int32", "int64", "uint32", "uint64"]))
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    wide = st.integers(low, high)
    key = draw(st.sampled_from([wide, st.integers(0, 3), st.integers(high - 3, high), st.just(7) | wide]))
    sizes = draw(st.lists(st.lists(st.sampled_from([0, 1, 3, 20, 60]), max_size=3), max_size=4))
    chunk, result = 0, []
    for files in sizes:
        made = []
        for size in files:
            keys = draw(st.lists(key, min_size=size, max_size=size))
            made.append(rows_of(keys, [chunk] * size, range(size), f"{kind} int32"))
            chunk += 1
        result.append(made)
    return result


def merge_all(
    folder: Folder, staged: list[Manifest], ranges: tuple[KeyRange, ...], capacity: int = 10_000, group_rows: int = 4
) -> list[Row]:
    """All slices of all ranges, with what must hold of each."""
    merger = Merger(folder, RunFiles.of(staged), capacity)
    everything: list[Row] = []
    for key_range in ranges:
        pieces = list(merger.pieces(key_range))
        assert [p.slice for p in pieces] == sorted(p.slice for p in pieces)
        assert all(one.last == (one.slice != other.slice) for one, other in pairwise(pieces)), "each slice ends once"
        assert all(piece.last for piece in pieces[-1:])
        for piece in pieces:
            low, high = key_range.slices()[piece.slice]
            keys = piece.rows.key.tolist()
            # Rows of one key that are too many come as they are decoded.
            most = min(capacity, merge.PIECE_ROWS)
            assert 0 < len(keys) <= (max(most, runs.ROW_GROUPS_AT_ONCE * group_rows) if keys[0] == keys[-1] else most)
            assert keys == sorted(keys)
            assert low is None or low <= keys[0]
            assert high is None or keys[-1] < high
            everything += tuples(piece.rows)
        for one, other in pairwise(pieces):
            if one.rows.key[-1] == other.rows.key[0]:
                assert one.rows.key[0] == one.rows.key[-1], "equal keys are parted only where they fill a piece"
    held = merger._room.columns
    assert held is None or len(held) == capacity, "no more rows are held"
    return everything


@given(
    pieces=pieces_of_runs(),
    group_rows=st.sampled_from([1, 4, 32, 1000]),
    slice_rows=st.sampled_from([1, 5, 40, 1000]),
    per_task=st.sampled_from([1, 20, 1000]),
    capacity=st.sampled_from([1, 2, 7, 50, 1000]),
    piece_rows=st.sampled_from([1, 5, 30, 1000]),
)
@examples(150)
def test_ranges_together_hold_each_row_once(
    tmp_path: Path,
    pieces: list[list[Rows]],
    group_rows: int,
    slice_rows: int,
    per_task: int,
    capacity: int,
    piece_rows: int,
) -> None:
    folder = Folder.at(str(tmp_path / uuid4().hex))
    staged = [stage(folder, f"m{i}", files, group_rows) for i, files in enumerate(pieces)]
    split = make_split(TOKEN, staged, per_task, slice_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUPS_AT_ONCE", 2)
        patch.setattr(merge, "PIECE_ROWS", piece_rows)
        everything = merge_all(folder, staged, split.ranges, capacity, group_rows)
    expected = [row for files in pieces for rows in files for row in tuples(rows)]
    assert Counter(everything) == Counter(expected)
    assert [row[0] for row in everything] == sorted(row[0] for row in expected)


@given(pieces=pieces_of_runs(), gone=st.sets(st.integers(0, 11)), capacity=st.sampled_from([3, 1000]))
@examples(60)
def test_rows_of_dropped_chunks_are_left_out(
    tmp_path: Path, pieces: list[list[Rows]], gone: set[int], capacity: int
) -> None:
    folder = Folder.at(str(tmp_path / uuid4().hex))
    staged = [stage(folder, f"m{i}", files, 4).without(gone) for i, files in enumerate(pieces)]
    split = make_split(TOKEN, staged, 20, 5)
    expected = [row for files in pieces for rows in files for row in tuples(rows) if row[1] not in gone]
    assert split.rows == len(expected)
    assert Counter(merge_all(folder, staged, split.ranges, capacity)) == Counter(expected)


def test_a_window_decodes_only_row_groups_that_it_needs(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = [stage(folder, "m", [rows_of(range(100), [1] * 100, [1] * 100)], 10)]
    read: list[int] = []
    real = pq.ParquetFile.read_row_groups

    def noted(self: Any, groups: Sequence[int], **options: Any) -> Any:
        read.extend(groups)
        return real(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)
    pieces = list(Merger(folder, RunFiles.of(staged), 1000).pieces(KeyRange(0, (25, 31, 32, 33, 58, 60), 35)))
    assert [piece.rows.key.tolist() for piece in pieces] == [
        [25, 26, 27, 28, 29, 30],
        [31],
        [32],
        list(range(33, 58)),
        [58, 59],
    ]
    assert read == [2, 3, 4, 5]


def test_a_file_outside_of_the_range_is_not_opened(folder: Folder) -> None:
    staged = [stage(folder, "m", [rows_of(range(c * 10, c * 10 + 10), [c] * 10, range(10)) for c in range(3)])]
    for file in (staged[0].files[0], staged[0].files[2]):
        folder.remove(file.name)
    (piece,) = Merger(folder, RunFiles.of(staged), 1000).pieces(KeyRange(0, (10, 20), 10))
    assert piece.rows.key.tolist() == list(range(10, 20))


def test_one_key_with_more_rows_than_memory_comes_in_pieces(folder: Folder) -> None:
    keys = [5] * 200 + [7] * 3 + [2] * 3
    staged = [stage(folder, "m", [rows_of(keys, [c] * len(keys), range(len(keys))) for c in range(3)], 4)]
    pieces = list(Merger(folder, RunFiles.of(staged), 20).pieces(KeyRange(0, (None, None), 600)))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    found = [key for piece in pieces for key in piece.rows.key.tolist()]
    assert found == [2] * 9 + [5] * 600 + [7] * 9


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_neighbouring_huge_keys_are_told_apart(folder: Folder, kind: str) -> None:
    # float64 has one value for all of these.
    top = int(np.iinfo(kind).max)
    keys = [top - 3, top - 2, top - 1, top]
    staged = [stage(folder, "m", [rows_of(keys, [1] * 4, range(4), f"{kind} int32")])]
    for capacity in (1, 100):
        merger = Merger(folder, RunFiles.of(staged), capacity)
        pieces = merger.pieces(KeyRange(0, (None, *keys[1:], None), 4))
        assert [piece.rows.key.tolist() for piece in pieces] == [[key] for key in keys]
        assert [p.rows.key.tolist() for p in merger.pieces(KeyRange(0, (None, None), 4))] in (
            [keys],
            [[key] for key in keys],
        )


def test_no_files_no_pieces(folder: Folder) -> None:
    assert list(Merger(folder, RunFiles.of([]), 10).pieces(KeyRange(0, (None, 5, None), 0))) == []


def duplicates_of(slices: list[list[tuple[int, int]]]) -> Duplicates:
    """Look through slices of (key, chunk), sorted as merge sorts them."""
    found = Duplicates()
    for rows in slices:
        found.look(rows_of([k for k, _ in rows], [c for _, c in rows], [0] * len(rows)).sorted())
    return found


@st.composite
def pairs_at_most(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Slices in which each key occurs once or twice."""
    keys = draw(st.lists(st.integers(0, 40), max_size=40))
    number = Counter[int]()
    slices: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for key in keys:
        number[key] += 1
        if number[key] <= 2:
            slices[key // 10].append((key, draw(st.integers(0, 4))))
    return [slices[i] for i in sorted(slices)]


def told(messages: dict[int, str]) -> dict[tuple[int, int], int]:
    """The pairs of chunks and the count of keys that the messages name."""
    result: dict[tuple[int, int], int] = {}
    for chunk, message in messages.items():
        for part in message.split("; "):
            count, where = int(part.split(" duplicate key(s), such as ")[0]), part.rsplit(": ", 1)[1]
            other = chunk if where == "twice within the chunk" else int(where.removeprefix("also in chunk "))
            assert result.setdefault((chunk, other), count) == count
    return result


@given(pairs_at_most())
@examples(150)
def test_duplicates_are_exactly_those_of_brute_force(slices: list[list[tuple[int, int]]]) -> None:
    expected: Counter[tuple[int, int]] = Counter()
    for (key, chunk), (other, other_chunk) in combinations([row for rows in slices for row in rows], 2):
        if key == other:
            expected.update({(chunk, other_chunk), (other_chunk, chunk)})
    found = duplicates_of(slices)
    assert told(found.messages()) == dict(expected)
    assert bool(found) == bool(expected)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=40))
@examples(100)
def test_each_chunk_with_a_duplicate_key_is_told(rows: list[tuple[int, int]]) -> None:
    count = Counter(key for key, _ in rows)
    assert set(duplicates_of([rows]).messages()) == {chunk for key, chunk in rows if count[key] > 1}


def test_a_key_in_many_rows_is_one_key() -> None:
    assert duplicates_of([[(5, 1), (5, 1), (5, 1), (6, 1)]]).messages() == {
        1: "1 duplicate key(s), such as 5: twice within the chunk"
    }


@pytest.mark.parametrize(("slices", "keys"), [(1, 10), (50, 1)])
def test_both_chunks_are_told_with_a_sample_of_the_keys(slices: int, keys: int) -> None:
    rows = [[(i * keys + key, chunk) for key in range(keys) for chunk in (3, 8)] for i in range(slices)]
    text = f"{slices * keys} duplicate key(s), such as {', '.join(map(str, range(QUOTED_KEYS)))}: also in chunk"
    assert duplicates_of(rows).messages() == {3: f"{text} 8", 8: f"{text} 3"}


def test_a_chunk_that_shares_keys_with_many_names_some() -> None:
    others = range(1, QUOTED_CHUNKS + 4)
    messages = duplicates_of([[row for other in others for row in ((other, 0), (other, other))]]).messages()
    assert messages[0].count("also in chunk") == QUOTED_CHUNKS
    assert messages[0].endswith("; and with 3 more chunks")
    assert set(messages) == {0, *others}


def test_huge_keys_are_quoted_exactly() -> None:
    top = (1 << 64) - 1
    found = Duplicates()
    found.look(rows_of([top - 1, top, top], [1, 2, 3], [0, 0, 0], "uint64 int32"))
    assert found.messages()[2] == f"1 duplicate key(s), such as {top}: also in chunk 3"
