"""How work is cut: every position in exactly one group."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.windows import MAX_MAPPED_TASKS, contiguous_groups, task_count
from tests.support.samples import examples

WHOLE = st.lists(st.one_of(st.integers(0, 20), st.sampled_from([0, 1, 10**6, 10**12])), max_size=80)
REAL = st.lists(st.floats(0, 1e12, allow_nan=False), max_size=80)


@given(weights=st.one_of(WHOLE, REAL), groups=st.integers(1, 100))
@example(weights=[], groups=5)
@examples(200)
def test_every_position_is_in_one_group(weights: list[float], groups: int) -> None:
    made = list(contiguous_groups(weights, groups))
    assert [position for group in made for position in group] == list(range(len(weights)))
    assert all(made), "an empty group would be a task without work"
    assert len(made) <= groups


@given(weights=WHOLE.filter(any), groups=st.integers(1, 100))
@examples(150)
def test_no_group_is_heavier_than_its_share_and_one_item(weights: list[int], groups: int) -> None:
    for group in contiguous_groups(weights, groups):
        assert sum(weights[i] for i in group) <= sum(weights) / groups + max(weights)


@pytest.mark.parametrize("weight", [0, 1, 7])
@given(items=st.integers(1, 200), groups=st.integers(1, 60))
@examples(50)
def test_equal_items_are_dealt_out_evenly(weight: int, items: int, groups: int) -> None:
    sizes = [len(group) for group in contiguous_groups([weight] * items, groups)]
    assert len(sizes) == min(items, groups)
    assert max(sizes) - min(sizes) <= 1


def test_one_heavy_item_does_not_swallow_the_rest() -> None:
    assert list(contiguous_groups([100, 1, 1, 1], 2)) == [range(1), range(1, 4)]
    assert list(contiguous_groups([1, 1, 1, 100], 2)) == [range(4)]


@pytest.mark.parametrize("groups", [0, -1])
def test_no_groups_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        list(contiguous_groups([1], groups))


@given(
    weight=st.floats(0, 1e15),
    per_task=st.floats(1, 1e9),
    least=st.integers(-5, 2000),
    most=st.integers(1, 2000),
)
@examples(200)
def test_task_count_stays_within_bounds(weight: float, per_task: float, least: int, most: int) -> None:
    count = task_count(weight, per_task, least=least, most=most)
    assert 1 <= count <= most
    assert count >= min(least, most)
    if count < most:
        assert int(weight) <= count * int(per_task), "a task would do more than it should"


@pytest.mark.parametrize(
    ("weight", "per_task", "expected"),
    [(0, 10, 1), (1, 10, 1), (10, 10, 1), (11, 10, 2), (100, 10, 10), (10**12, 1, MAX_MAPPED_TASKS)],
)
def test_task_count(weight: int, per_task: int, expected: int) -> None:
    assert task_count(weight, per_task) == expected


@pytest.mark.parametrize(("per_task", "most"), [(0, 5), (-1, 5), (10, 0)])
def test_task_count_refuses_nonsense(per_task: int, most: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        task_count(10, per_task, most=most)
