"""Sorted runs: files read back whole, and each chunk counts once."""

from __future__ import annotations

import json
from collections import Counter
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
from airflow_reindex.director import runs
from airflow_reindex.director.columns import Checksum, Rows
from airflow_reindex.director.runs import (
    RUNS,
    Manifest,
    StagedChunk,
    StagedFile,
    accounted,
    manifests,
    named,
    new_name,
    read_groups,
    write_file,
)
from tests.core.samples import TOKEN, examples, manifest, rows_of, tuples

EXTREMES = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint64": (0, (1 << 64) - 1),
}


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    """Rows of any type, of narrow or wide keys."""
    kind = draw(st.sampled_from(sorted(EXTREMES)))
    low, high = EXTREMES[kind]
    key = st.one_of(st.integers(low, high), st.integers(0, 3), st.sampled_from([low, high]))
    keys = draw(st.lists(key, min_size=1, max_size=40))
    return rows_of(keys, range(len(keys)), range(len(keys)), f"{kind} {draw(st.sampled_from(sorted(EXTREMES)))}")


@given(rows=some_rows(), group_rows=st.integers(1, 50))
@examples(60)
def test_a_file_reads_back_sorted(tmp_path: Path, rows: Rows, group_rows: int) -> None:
    folder = Folder.at(str(tmp_path / uuid4().hex))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP_ROWS", group_rows)
        file = write_file(folder, "runs/a.parquet", rows)
    with folder.open(file.name) as stream:
        metadata = pq.ParquetFile(stream).metadata
    assert metadata.num_row_groups == -(-len(rows) // group_rows)
    again = read_groups(folder, file.name, metadata, range(metadata.num_row_groups))
    assert again.key.tolist() == sorted(rows.key.tolist())
    assert sorted(tuples(again)) == sorted(tuples(rows))
    assert (again.key.dtype, again.sub_chunk.dtype) == (rows.key.dtype, rows.sub_chunk.dtype)
    assert again.chunk.dtype == np.int32
    assert (file.rows, file.bytes) == (len(rows), Path(folder.path(file.name)).stat().st_size)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 512, 5_000])
def test_the_sample_is_evenly_spaced(tmp_path: Path, count: int) -> None:
    folder = Folder.at(str(tmp_path))
    file = write_file(folder, "runs/a.parquet", rows_of(range(count - 1, -1, -1), [1] * count, [1] * count))
    assert file.step == max(1, count // runs.SAMPLES)
    assert set(np.diff(file.sample)) <= {file.step}
    # The keys are the positions, so this says that the sample covers the file from its begin to its end.
    assert 0 <= file.sample[0] < file.step
    assert count - file.step <= file.sample[-1] < count
    assert abs(file.step * len(file.sample) - count) < file.step
    assert len(file.sample) < 2 * runs.SAMPLES


def test_samples_of_two_files_are_at_different_places(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    rows = rows_of(range(10_000), [1] * 10_000, [1] * 10_000)
    firsts = {write_file(folder, f"runs/{name}.parquet", rows).sample[0] for name in "abcdefgh"}
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
        (StagedFile("runs/a.parquet", 5, 1, tuple(sample), 99),),
    )
    assert Manifest.from_dict(made.name, json.loads(json.dumps(made.as_dict()))) == made


def test_only_manifests_of_the_group_are_read(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    groups = [1, 10, 100, 1000, 10000, 1]
    made = [manifest(f"{i}", [i], group=group) for i, group in enumerate(groups)]
    for one in made:
        folder.write_json(one.name, one.as_dict())
    folder.write("runs/g0001-x.parquet", b"")
    assert {m.name for m in manifests(folder)} == {m.name for m in made}
    for group in set(groups):
        assert [m.name for m in manifests(folder, group)] == sorted(m.name for m in made if m.group == group)


def test_no_folder_no_manifests(tmp_path: Path) -> None:
    assert list(manifests(Folder.at(str(tmp_path / "none")))) == []


def test_new_names_differ_and_name_their_group() -> None:
    names = {new_name(7) for _ in range(100)}
    assert len(names) == 100
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
    names = {m.name for i, m in enumerate(made) if i in adopted}
    chosen = accounted(made, TOKEN, names)
    counts = Counter(c.chunk for m in chosen for c in m.chunks)
    assert set(counts.values()) <= {1}
    assert all(m.token == TOKEN or m.name in names for m in chosen)
    for left in [m for m in made if m not in chosen and m.token == TOKEN]:
        assert {c.chunk for c in left.chunks} & set(counts), "left out without a reason"
    shuffled = list(made)
    shuffle.shuffle(shuffled)
    assert accounted(shuffled, TOKEN, names) == chosen


def test_foreign_manifests_do_not_count_unless_adopted() -> None:
    own, foreign = manifest("b", [1]), manifest("a", [2], token="other")
    assert accounted([own, foreign], TOKEN, ()) == [own]
    assert accounted([own, foreign], TOKEN, [foreign.name]) == [foreign, own]


def test_an_adopted_manifest_goes_before_the_plans_own() -> None:
    own, adopted = manifest("a", [1, 2]), manifest("z", [2, 3], token="other")
    assert accounted([own, adopted], TOKEN, [adopted.name]) == [adopted]


def test_of_a_double_delivery_one_half_counts() -> None:
    twice = [manifest(name, [1, 2, 3]) for name in ("a", "b")]
    assert accounted(twice, TOKEN, ()) == twice[:1]


def test_later_runs_have_later_names() -> None:
    names = [new_name(7) for _ in range(100)]
    assert names == sorted(names)
    assert len(set(names)) == 100


def test_a_late_delivery_takes_nothing_away_from_an_earlier_one() -> None:
    # Two deliveries of one task; the second began when the first had staged chunks 1 and 2, and cut otherwise.
    first = [manifest("a", [1, 2]), manifest("b", [3, 4]), manifest("d", [5, 6])]
    second = [manifest("c", [3, 4, 5]), manifest("e", [6])]
    used = [m.name for m in accounted([*second, *first], TOKEN, ())]
    assert used == [m.name for m in first]


def test_manifests_of_a_split_are_read_by_name(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    staged = manifest("b", [1, 2])
    folder.write_json(staged.name, staged.as_dict())
    assert named(folder, [staged.name]) == [staged]
    with pytest.raises(ReindexError, match="is gone"):
        named(folder, [staged.name, "runs/other.json"])
