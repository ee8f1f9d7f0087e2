"""Windows: their ranges cover all keys, no key is in two of them, and each remembers what it was planned for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN
from airflow_reindex.core.windows import MAX_MAPPED_TASKS
from airflow_reindex.vectors.model import plan as planning
from airflow_reindex.vectors.model.collection import CollectionInfo
from airflow_reindex.vectors.model.plan import (
    ReindexPlan,
    Window,
    coarse_ranges,
    planned_items,
    read_plan,
    window_size,
    write_windows,
)
from airflow_reindex.vectors.model.request import ReindexRequest
from tests.support.samples import examples

Range = tuple[str | None, str | None]
KEYS = st.lists(st.text(st.sampled_from("ab.é漢"), min_size=1, max_size=4), max_size=60, unique=True).map(sorted)


def batches(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(keys[start : start + size]) for start in range(0, len(keys), size))


def holds(limits: Range, key: str) -> bool:
    after, until = limits
    return (after is None or key > after) and (until is None or key <= until)


def check_chain(ranges: Sequence[Range]) -> None:
    """From one open end to the other, without a gap or an overlap."""
    assert ranges[0][0] is None
    assert ranges[-1][1] is None
    assert all(one[1] == other[0] is not None for one, other in pairwise(ranges))
    assert all(until is not None and (after is None or after < until) for after, until in ranges[:-1])


@examples(150)
@given(keys=KEYS, size=st.integers(1, 9), batch=st.integers(1, 13), other=KEYS)
def test_windows_cover_the_key_space(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], size: int, batch: int, other: list[str]
) -> None:
    folder = Folder.at(str(tmp_path_factory.mktemp("plan")))
    windows = write_windows(folder, batches(keys, batch), size)
    assert [window.limit for window in windows] == [len(part) for part in batches(keys, size)]
    assert [window.offset for window in windows] == list(range(0, len(keys), size))
    assert [window.number for window in windows] == list(range(len(windows)))
    assert [planned_items(folder, window.number) for window in windows] == list(batches(keys, size))
    if not windows:
        return
    ranges = [(window.after, window.until) for window in windows]
    check_chain(ranges)
    for number, limits in enumerate(ranges):
        assert [key for key in keys if holds(limits, key)] == planned_items(folder, number)
    # What is inserted later belongs to one window, too.
    assert all(sum(holds(limits, key) for limits in ranges) == 1 for key in other)


def test_batches_may_be_empty_and_the_file_is_there_without_windows(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    # As for only_failed_of: most batches of keys have none of the listed items.
    windows = write_windows(folder, iter([[], ["a"], [], [], ["b", "c"], []]), 2)
    assert [planned_items(folder, window.number) for window in windows] == [["a", "b"], ["c"]]
    assert write_windows(folder, iter([[], []]), 2) == []


def test_labels_are_the_seeds(tmp_path: Path) -> None:
    windows = write_windows(Folder.at(str(tmp_path)), batches([f"{n:02}" for n in range(35)], 10), 16)
    assert [window.label for window in windows] == [
        "offset 0, limit 16",
        "offset 16, limit 16",
        "offset 32, limit 3",
    ]


@pytest.mark.parametrize(
    ("total", "batch_size", "size"),
    [
        (0, 16, 16),
        (1, 16, 16),
        (1024 * 16, 16, 16),
        (1024 * 16 + 1, 16, 17),
        (10_000_000, 2000, 9766),
        (1025, 1, 2),
        (1024, 1, 1),
    ],
)
def test_window_size(total: int, batch_size: int, size: int) -> None:
    assert window_size(total, batch_size) == size


@given(total=st.integers(0, 10**9), batch_size=st.integers(1, 10**5))
def test_never_more_windows_than_airflow_maps(total: int, batch_size: int) -> None:
    size = window_size(total, batch_size)
    assert size >= batch_size
    assert -(-total // size) <= MAX_MAPPED_TASKS


def test_a_collection_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_MAPPED_TASKS", 4)
    folder, keys = Folder.at(str(tmp_path)), [f"{n:03}" for n in range(100)]
    windows = write_windows(folder, batches(keys, 7), 10)
    assert [window.limit for window in windows] == [10, 10, 10, 70], "the last one takes the rest"
    assert planned_items(folder, 3) == keys[30:]
    check_chain([(window.after, window.until) for window in windows])


def test_one_window_a_task_at_most(tmp_path: Path) -> None:
    keys = [f"{n:06}" for n in range(2000)]
    windows = write_windows(Folder.at(str(tmp_path)), batches(keys, 999), window_size(2000, 1))
    assert len(windows) == 1000
    assert sum(window.limit for window in windows) == 2000


@examples(200)
@given(keys=KEYS, size=st.integers(1, 5), items=st.integers(1, 30))
def test_coarse_ranges_cover_the_key_space(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], size: int, items: int
) -> None:
    windows = write_windows(Folder.at(str(tmp_path_factory.mktemp("plan"))), batches(keys, 10), size)
    ranges = coarse_ranges(windows, items)
    check_chain(ranges)
    counts = [sum(holds(limits, key) for key in keys) for limits in ranges]
    assert sum(counts) == len(keys)
    assert all(items <= count < items + size for count in counts[:-1])
    assert counts[-1] < items + size
    assert {until for _, until in ranges} <= {window.until for window in windows} | {None}, "windows are not cut"


def test_no_windows_are_one_range() -> None:
    assert coarse_ranges([], 10) == [(None, None)]


def a_plan() -> ReindexPlan:
    info = CollectionInfo(collection_id="old", embedding_model_id="", dimensions=4)
    return ReindexPlan(
        token="t1",
        request=ReindexRequest(source_embedding_model_id="old", dest_embedding_model_id="new", max_failed=0.5),
        run_id="run",
        conn_id="c",
        source=info,
        dest=replace(info, collection_id="new", metric="dot", m=7),
        preserve_newer=True,
        embedding_config_hash="00ff",
        total=2,
        windows=(Window(number=0, offset=0, limit=2, after=None, until=None),),
        listed_only=True,
        started_at="2026-01-01T00:00:00Z",
        notes={"dest_is_live": True},
    )


def test_a_plan_survives_json(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    stored = a_plan().as_dict()
    folder.write_json(PLAN, stored)
    assert read_plan(folder) == read_plan(folder, "t1") == a_plan()
    kept = {"protect": True, "recipe": "00ff"}
    assert {**stored, **kept} == stored, "runs that were planned by an earlier version go on"
    assert stored["windows"][0].keys() == {"number", "offset", "limit", "after", "upto"}


def test_a_task_of_another_plan_stops(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    with pytest.raises(ReindexError, match="is gone: clear this run from its task 'plan' on"):
        read_plan(folder)
    folder.write_json(PLAN, a_plan().as_dict())
    with pytest.raises(ReindexError, match="is not the one this task was made for: clear this run"):
        read_plan(folder, "t0")
