"""Sorted runs: files read back whole, and each chunk counts once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model import runs
from airflow_reindex.director.model.runs import (
    RUNS,
    Manifest,
    StagedChunk,
    StagedFile,
    accounted,
    manifests,
    named,
    new_name,
    read_part,
    write_run,
)
from airflow_reindex.director.mysql.types import Checksum, Rows
from tests.support.samples import TOKEN, examples, manifest, rows_of, tuples

KINDS = ["int32", "int64", "uint32", "uint64"]


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    """Rows of any type, of narrow or wide keys."""
    kind, sub_kind = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS))
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    key = st.one_of(st.integers(low, high), st.integers(0, 3), st.sampled_from([low, high]))
    keys = draw(st.lists(key, min_size=1, max_size=40))
    return rows_of(keys, range(len(keys)), range(len(keys)), f"{kind} {sub_kind}")


@given(rows=some_rows(), group_rows=st.integers(1, 50))
@examples(60)
def test_a_file_reads_back_sorted(tmp_path: Path, rows: Rows, group_rows: int) -> None:
    folder = Folder.at(str(tmp_path / uuid4().hex))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUPS_IN_FILE", 3)
        patch.setattr(runs, "ROW_GROUPS_AT_ONCE", 2)
        files = write_run(folder, "runs/a", rows, group_rows)
        read = [(file, list(read_part(folder, file.name, None, None))) for file in files]
    assert len(files) == -(-len(rows) // (3 * group_rows))
    for file, pieces in read:
        with folder.open(file.name) as stream:
            assert pq.ParquetFile(stream).metadata.num_row_groups == -(-file.rows // group_rows) <= 3
        keys = [key for piece in pieces for key in piece.key.tolist()]
        assert (file.rows, file.low, file.high) == (len(keys), keys[0], keys[-1])
        assert file.bytes == Path(folder.path(file.name)).stat().st_size
    again = [piece for _, pieces in read for piece in pieces]
    assert [key for piece in again for key in piece.key.tolist()] == sorted(rows.key.tolist())
    assert sorted(row for piece in again for row in tuples(piece)) == sorted(tuples(rows))
    for piece in again:
        assert (piece.key.dtype, piece.sub_chunk.dtype) == (rows.key.dtype, rows.sub_chunk.dtype)
        assert piece.chunk.dtype == np.int32


@given(rows=some_rows(), bounds=st.tuples(st.integers(0, 39), st.integers(0, 39)))
@examples(60)
def test_a_part_of_a_file_is_what_lies_between_two_keys(tmp_path: Path, rows: Rows, bounds: tuple[int, int]) -> None:
    folder = Folder.at(str(tmp_path / uuid4().hex))
    (file,) = write_run(folder, "runs/a", rows, 4)
    keys = sorted(rows.key.tolist())
    low, high = keys[bounds[0] % len(keys)], keys[bounds[1] % len(keys)] + 1
    found = [key for piece in read_part(folder, file.name, low, high) for key in piece.key.tolist()]
    assert found == [key for key in keys if low <= key < high]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 512, 5_000])
def test_the_sample_is_evenly_spaced(folder: Folder, count: int) -> None:
    files = write_run(folder, "runs/a", rows_of(range(count - 1, -1, -1), [1] * count, [1] * count), 5)
    assert {file.step for file in files} == {max(1, count // runs.SAMPLES)}
    assert all(file.low <= key <= file.high for file in files for key in file.sample)
    file = replace(files[0], sample=tuple(key for f in files for key in f.sample))
    assert set(np.diff(file.sample)) <= {file.step}
    # The keys are the positions, so this says that the sample covers the file from its begin to its end.
    assert 0 <= file.sample[0] < file.step
    assert count - file.step <= file.sample[-1] < count
    assert abs(file.step * len(file.sample) - count) < file.step
    assert len(file.sample) < 2 * runs.SAMPLES


def test_samples_of_two_files_are_at_different_places(folder: Folder) -> None:
    rows = rows_of(range(10_000), [1] * 10_000, [1] * 10_000)
    firsts = {write_run(folder, f"runs/{name}", rows, 32_768)[0].sample[0] for name in "abcdefgh"}
    assert len(firsts) > 3


@given(
    st.lists(st.integers(0, 9), max_size=4, unique=True),
    st.lists(st.integers(-(1 << 63), (1 << 64) - 1), max_size=4),
)
@examples(40)
def test_a_manifest_reads_back_from_json(chunks: list[int], sample: list[int]) -> None:
    made = Manifest(
        "runs/g0001-a.json",
        TOKEN,
        1,
        "layout",
        tuple(StagedChunk(c, "w", "mark", Checksum(c, (1 << 64) - 1, c)) for c in chunks),
        (StagedFile("runs/a.parquet", 5, -1, 1 << 63, 1, tuple(sample), 99),),
    )
    assert Manifest.from_dict(made.name, json.loads(json.dumps(made.as_dict()))) == made


def test_only_manifests_of_the_group_are_read(folder: Folder) -> None:
    assert list(manifests(folder)) == []
    groups = [1, 10, 100, 1000, 10000, 1]
    made = [manifest(f"{i}", [i], group=group) for i, group in enumerate(groups)]
    for one in made:
        folder.write_json(one.name, one.as_dict())
    folder.write("runs/g0001-x.parquet", b"")
    assert {m.name for m in manifests(folder)} == {m.name for m in made}
    for group in set(groups):
        assert [m.name for m in manifests(folder, group)] == sorted(m.name for m in made if m.group == group)


def test_later_runs_have_later_names_that_name_their_group() -> None:
    names = [new_name(7) for _ in range(100)]
    assert names == sorted(names)
    assert len(set(names)) == 100
    assert all(name.startswith(f"{RUNS}/g0007-") for name in names)


CHUNK_SETS = st.lists(st.integers(0, 9), max_size=4, unique=True)


@given(
    found=st.lists(st.tuples(CHUNK_SETS, st.sampled_from([TOKEN, "foreign"])), max_size=10),
    adopted=st.sets(st.integers(0, 9)),
    shuffle=st.randoms(use_true_random=False),
)
@examples(150)
def test_no_chunk_counts_twice(found: list[tuple[list[int], str]], adopted: set[int], shuffle: Random) -> None:
    made = [manifest(f"{i}", chunks, token=token) for i, (chunks, token) in enumerate(found)]
    names: dict[str, tuple[int, ...]] = {m.name: () for i, m in enumerate(made) if i in adopted}
    chosen = accounted(made, TOKEN, names)
    counts = Counter(c.chunk for m in chosen for c in m.chunks)
    assert set(counts.values()) <= {1}
    assert all(m.token == TOKEN or m.name in names for m in chosen)
    for left in [m for m in made if m not in chosen and m.token == TOKEN]:
        assert {c.chunk for c in left.chunks} & set(counts), "left out without a reason"
    shuffled = list(made)
    shuffle.shuffle(shuffled)
    assert accounted(shuffled, TOKEN, names) == chosen


def test_foreign_manifests_do_not_count_unless_adopted_and_then_before_the_plans_own() -> None:
    own, other = manifest("a", [1, 2]), manifest("y", [4])
    foreign = manifest("z", [2, 3], token="other")
    assert accounted([own, foreign, other], TOKEN) == [own, other]
    assert accounted([own, foreign, other], TOKEN, {foreign.name: ()}) == [foreign, other]


def test_of_an_adopted_manifest_changed_chunks_do_not_count() -> None:
    own, adopted = manifest("a", [2]), manifest("z", [2, 3], token="other")
    chosen = accounted([own, adopted], TOKEN, {adopted.name: (2,)})
    assert [[chunk.chunk for chunk in m.chunks] for m in chosen] == [[3], [2]]
    assert chosen[0].dropped == (2,)


def test_a_late_delivery_takes_nothing_away_from_an_earlier_one() -> None:
    twice = [manifest(name, [1, 2, 3]) for name in ("a", "b")]
    assert accounted(twice, TOKEN) == twice[:1]
    # Two deliveries of one task; the second began when the first had staged chunks 1 and 2, and cut otherwise.
    first = [manifest("a", [1, 2]), manifest("b", [3, 4]), manifest("d", [5, 6])]
    second = [manifest("c", [3, 4, 5]), manifest("e", [6])]
    used = [m.name for m in accounted([*second, *first], TOKEN)]
    assert used == [m.name for m in first]


def test_manifests_of_a_split_are_read_by_name(folder: Folder) -> None:
    staged = manifest("b", [1, 2])
    folder.write_json(staged.name, staged.as_dict())
    assert named(folder, {staged.name: ()}) == [staged]
    (one,) = named(folder, {staged.name: (2,)})
    assert [chunk.chunk for chunk in one.chunks] == [1]
    assert one.dropped == (2,)
    with pytest.raises(ReindexError, match="is gone"):
        named(folder, {staged.name: (), "runs/other.json": ()})
