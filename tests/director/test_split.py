"""The key space in ranges and slices: without gaps, and the same again from the same runs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.windows import MAX_MAPPED_TASKS
from airflow_reindex.director.model.runs import Manifest, StagedFile
from airflow_reindex.director.model.split import LEAST_RANGES, KeyRange, Split, make_split, quantiles
from airflow_reindex.director.mysql.types import Checksum
from tests.support.samples import TOKEN, examples, manifest, staged

SIGNED, UNSIGNED = st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 64) - 1)


def sampled(name: str, keys: list[int], step: int = 1) -> Manifest:
    """A manifest of one file that has these keys as its sample."""
    low, high = min(keys, default=0), max(keys, default=0)
    file = StagedFile(f"runs/{name}.parquet", len(keys) * step, low, high, step, tuple(sorted(keys)), 100)
    chunk = staged(len(name), checksum=Checksum(len(keys) * step))
    return replace(manifest(name, (), files=[file] if keys else []), chunks=(chunk,))


@st.composite
def stagings(draw: st.DrawFn) -> list[Manifest]:
    """Manifests of one key type: signed or unsigned, wide or narrow."""
    keys = draw(st.sampled_from([SIGNED, UNSIGNED, st.integers(0, 3), st.integers((1 << 63) - 2, (1 << 63) + 2)]))
    lists = draw(st.lists(st.tuples(st.lists(keys, max_size=30), st.integers(1, 50)), max_size=6))
    return [sampled("x" * (i + 1), found, step) for i, (found, step) in enumerate(lists)]


@given(staged=stagings(), per_task=st.sampled_from([1, 10, 100]), slice_rows=st.sampled_from([1, 7, 50, 1000]))
@examples(200)
def test_ranges_cover_the_key_space_without_gaps(staged: list[Manifest], per_task: int, slice_rows: int) -> None:
    split = make_split(TOKEN, staged, per_task, slice_rows)
    assert split.rows == sum(file.rows for m in staged for file in m.files)
    assert list(split.manifests) == sorted(m.name for m in staged)
    if not split.rows:
        assert split.ranges == ()
        return
    assert [r.number for r in split.ranges] == list(range(len(split.ranges)))
    assert len(split.ranges) <= MAX_MAPPED_TASKS
    assert split.ranges[0].bounds[0] is None
    assert split.ranges[-1].bounds[-1] is None
    for left, right in pairwise(split.ranges):
        assert left.bounds[-1] == right.bounds[0]
    between = [bound for r in split.ranges for bound in r.bounds[1:]][:-1]
    inner = [bound for bound in between if bound is not None]
    assert inner == between, "only the two ends are open"
    assert all(one < other for one, other in pairwise(inner)), "bounds ascend, each once"
    assert sum(r.rows for r in split.ranges) <= split.rows
    assert sum(len(r.slices()) for r in split.ranges) == len(inner) + 1
    keys = {key for m in staged for file in m.files for key in file.sample}
    assert set(inner) <= keys, "a bound is a key of the runs: through float64 it would be another"


@given(staged=stagings(), seed=st.integers(0, 99))
@examples(100)
def test_the_same_runs_give_the_same_split(staged: list[Manifest], seed: int) -> None:
    shuffled = list(staged)
    random.Random(seed).shuffle(shuffled)
    assert make_split(TOKEN, shuffled, 10, 20) == make_split(TOKEN, staged, 10, 20)


def test_other_runs_or_another_plan_give_another_build() -> None:
    one, other = sampled("a", [1, 2, 3]), sampled("b", [1, 2, 3])
    builds = [
        make_split(token, staged, 10).build
        for token, staged in ((TOKEN, [one]), (TOKEN, [other]), (TOKEN, [one, other]), ("other", [one]), (TOKEN, []))
    ]
    assert len(set(builds)) == 5
    assert {len(build) for build in builds} == {8}


@given(stagings())
@examples(60)
def test_a_split_reads_back_from_json(staged: list[Manifest]) -> None:
    split = make_split(TOKEN, staged, 10, 5)
    assert Split.from_dict(json.loads(json.dumps(split.as_dict()))) == split


def test_slices_are_of_about_equal_size() -> None:
    # 20 runs of like size, each sampled at every 100th key, as extract tasks of hashed keys leave them.
    numbers = random.Random(1)
    staged = [sampled(f"{i}", [numbers.randrange(10**9) for _ in range(200)], 100) for i in range(20)]
    split = make_split(TOKEN, staged, 50_000, 10_000)
    bounds = [bound for r in split.ranges for bound in r.bounds[1:]][:-1]
    assert len(bounds) == 39
    keys = sorted(key for m in staged for file in m.files for key in file.sample)
    edges = [-1, *(bound for bound in bounds if bound is not None), 10**9]
    sizes = [100 * sum(low <= key < high for key in keys) for low, high in pairwise(edges)]
    assert max(sizes) <= 1.1 * 10_000
    assert min(sizes) >= 0.9 * 10_000
    assert 8 <= len(split.ranges) <= 10
    assert {len(r.slices()) for r in split.ranges} <= {4, 5}


def test_a_huge_catalog_stays_within_airflows_limit() -> None:
    staged = [sampled("a", list(range(0, 40_000, 10)), 10)]
    split = make_split(TOKEN, staged, 1, 10)
    assert len(split.ranges) == MAX_MAPPED_TASKS
    assert sum(len(r.slices()) for r in split.ranges) > 3_900


def test_a_small_catalog_still_loads_in_parallel() -> None:
    split = make_split(TOKEN, [sampled("a", list(range(1000)))], 10**9, 10)
    assert len(split.ranges) == LEAST_RANGES


def test_one_key_in_all_rows_makes_one_slice() -> None:
    split = make_split(TOKEN, [sampled("a", [7] * 100, 10)], 10, 10)
    assert [r.bounds for r in split.ranges] == [(None, None)]
    assert split.ranges[0].rows == 1000


@given(keys=st.lists(st.one_of(SIGNED, st.integers(0, 5)), min_size=1, max_size=60), parts=st.integers(1, 40))
@examples(100)
def test_quantiles_are_fewer_than_parts_and_ascend(keys: list[int], parts: int) -> None:
    cuts = quantiles([sampled("a", keys)], parts)
    assert len(cuts) < parts
    assert cuts == sorted(set(cuts))
    assert min(keys) not in cuts


@pytest.mark.parametrize(
    ("bounds", "label"),
    [
        ((None, 5, None), "keys [min, max)"),
        ((None, 5), "keys [min, 5)"),
        ((-3, 0, 9), "keys [-3, 9)"),
        ((0, None), "keys [0, max)"),
    ],
)
def test_label(bounds: tuple[int | None, ...], label: str) -> None:
    key_range = KeyRange(0, bounds, 1)
    assert key_range.label == label
    assert key_range.slices() == [(bounds[i], bounds[i + 1]) for i in range(len(bounds) - 1)]
