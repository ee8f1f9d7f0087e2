"""What a collection promises to a run that builds it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import ClaimLostError, DataError
from airflow_reindex.vectors.model.collection import MAX_ID, Collection, DestState, Embedded, SyncState
from airflow_reindex.vectors.model.store import Store
from tests.vectors.contract.samples import (
    DIMENSIONS,
    TOKEN,
    Place,
    contents,
    created,
    embedded,
    failed,
    fill,
    item,
    part_ids,
    take,
)


def test_parts_and_averages(dest: Collection) -> None:
    one = embedded(item("a"), parts=3)
    assert dest.put(TOKEN, [one]) == []
    assert part_ids(dest) == {"a:0", "a:1", "a:2", "a:average"}
    for vector, name in zip([*one.vectors, one.average], one.part_ids, strict=True):
        (hit,) = dest.search(vector, 1, exact=True)
        assert (hit.part_id, hit.object_id) == (name, "a")
        assert hit.distance == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("parts", [1, 5])
def test_replaced_with_all_parts(dest: Collection, parts: int) -> None:
    fill(dest, ["a", "b"], parts=3)
    dest.put(TOKEN, [embedded(item("a", "new"), parts=parts, content="etag")])
    numbers = {f"a:{number}" for number in range(parts)}
    assert part_ids(dest) == numbers | {"a:average", "b:0", "b:1", "b:2", "b:average"}
    assert dest.items(["a"])[0].payload == "new"
    mark = dest.states(None, None)["a"].sync
    assert mark is not None
    assert mark.content == "etag"


def test_nothing_at_all(dest: Collection) -> None:
    assert dest.put(TOKEN, []) == []
    dest.fail(TOKEN, {})
    dest.delete(TOKEN, [])
    assert dest.states(None, None) == {}


@pytest.mark.parametrize("metric", ["cosine", "euclid", "dot"])
def test_vectors_are_kept_to_the_last_bit(store: Store, metric: Any) -> None:
    dest = created(store, "dst", metric=metric)
    one = embedded(item("a"), parts=1)
    dest.put(TOKEN, [one])
    np.testing.assert_array_equal(dest.sample(10), one.vectors)


@pytest.mark.parametrize(
    "bad",
    [
        np.ones((2, DIMENSIONS + 1), np.float32),
        np.ones((0, DIMENSIONS), np.float32),
        np.full((1, DIMENSIONS), np.nan, np.float32),
    ],
)
def test_vectors_that_are_refused(dest: Collection, bad: Any) -> None:
    fill(dest, ["a"])
    before = contents(dest)
    with pytest.raises(DataError):
        dest.put(TOKEN, [embedded(item("b")), Embedded(item("a"), bad, SyncState(b"v", b"r"))])
    assert contents(dest) == before


def test_ids_that_are_refused(dest: Collection) -> None:
    with pytest.raises(DataError):
        dest.put(TOKEN, [embedded(item("b")), embedded(item("k" * (MAX_ID + 1)))])
    assert contents(dest)[1] == {}


def test_a_users_copy_is_not_overwritten(dest: Collection, place: Place) -> None:
    fill(dest, ["a"])
    place.copy("dst", "a", "copy")
    dest.put(TOKEN, [embedded(item("a"))])
    for only_unchanged in (False, True):
        with pytest.raises(DataError, match="a user's copy"):
            dest.put(TOKEN, [embedded(item("b")), embedded(item("copy"))], only_unchanged=only_unchanged)
    assert (dest.count(), dest.count_user_objects()) == (1, 1)


def test_failures(dest: Collection) -> None:
    fill(dest, ["a", "b"])
    dest.fail(TOKEN, {"a": failed(), "c": failed(plan_token="other", detail="NUL \0, half \ud800")})
    states = dest.states(None, None)
    assert states["a"] == DestState(None, failed())
    assert states["b"].row is not None
    assert states["c"].row is None
    assert states["c"].sync is not None
    assert states["c"].sync.detail.startswith("NUL ")
    assert part_ids(dest) == {"b:0", "b:1", "b:average"}
    assert (dest.count_failed("run"), dest.count_failed("other"), dest.count_failed("no")) == (1, 1, 0)


def test_failures_that_keep_rows(dest: Collection) -> None:
    items = fill(dest, ["a", "b"])
    dest.fail(TOKEN, {"a": failed()}, keep_rows=True)
    assert dest.states(None, None)["a"] == DestState(items["a"].version, failed())
    assert dest.count() == 2
    assert dest.count_failed("run") == 1


def test_delete(dest: Collection, place: Place) -> None:
    fill(dest, ["a", "b", "c"])
    dest.fail(TOKEN, {"f": failed()})
    place.copy("dst", "a", "copy")
    place.copy("dst", "b", "c2")
    dest.delete(TOKEN, ["a", "f", "gone", "c2"])
    assert set(dest.states(None, None)) == {"b", "c"}
    assert (dest.count(), dest.count_user_objects(), dest.count_failed("run")) == (2, 1, 0)
    assert {part for part in part_ids(dest) if part.startswith(("a", "copy"))} == set()


def test_zombies_change_nothing(store: Store, dest: Collection) -> None:
    items = fill(dest, ["a", "b"])
    before = contents(dest)
    take(store, "dst", "new owner")
    changes: list[Callable[[], object]] = [
        lambda: dest.put(TOKEN, [embedded(item("a", "new"))]),
        lambda: dest.put(TOKEN, [embedded(items["a"])], only_unchanged=True),
        lambda: dest.fail(TOKEN, {"a": failed()}),
        lambda: dest.delete(TOKEN, ["a"]),
        lambda: dest.build_index(TOKEN),
    ]
    for change in changes:
        with pytest.raises(ClaimLostError):
            change()
    assert contents(dest) == before
    assert not dest.has_index()
    assert dest.put("new owner", [embedded(item("c"))]) == []


def test_many_threads(dest: Collection) -> None:
    def work(number: int) -> None:
        for turn in range(3):
            dest.put(TOKEN, [embedded(item(f"{number}-{turn}-{i}"), parts=2) for i in range(5)])
        dest.put(TOKEN, [embedded(item(f"{number}-0-0"), parts=1)])
        dest.delete(TOKEN, [f"{number}-1-1"])
        dest.fail(TOKEN, {f"{number}-2-2": failed()})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (dest.count(), dest.count_failed("run")) == (4 * 13, 4)
    assert len(part_ids(dest)) == 4 * (13 * 3 - 1)
    assert dest.integrity_errors(None, None).incomplete == ()


def test_the_same_batch_by_two_tries_at_once(dest: Collection) -> None:
    def write(number: int) -> None:
        dest.put(TOKEN, [embedded(item(key), parts=2, seed=number) for key in "abc"])

    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, range(2)))
        assert dest.count() == 3
        found = [hit.part_id for hit in dest.search(np.ones(DIMENSIONS, np.float32), 100, exact=True)]
        assert sorted(found) == sorted(f"{key}:{end}" for key in "abc" for end in (0, 1, "average"))
        dest.delete(TOKEN, ["a", "b", "c"])


def test_what_somebody_else_wrote_is_left_alone(dest: Collection, place: Place) -> None:
    items = fill(dest, ["ours", "rewritten", "removed", "unmarked"])
    dest.fail(TOKEN, {"failed": failed(), "kept": failed()})
    place.rewrite("dst", "rewritten", {"n": "theirs"})
    place.remove("dst", "removed")
    batch = [embedded(item(key, "new"), parts=1) for key in ("ours", "rewritten", "removed", "failed", "new")]
    assert sorted(dest.put(TOKEN, batch, only_unchanged=True)) == ["removed", "rewritten"]
    payloads = {one.object_id: one.payload for one in dest.items([*items, "failed", "new"])}
    assert payloads == {
        "ours": "new",
        "failed": "new",
        "new": "new",
        "rewritten": {"n": "theirs"},
        "unmarked": {"n": "unmarked"},
    }
    assert "rewritten:1" in part_ids(dest)
    assert "ours:1" not in part_ids(dest)
    mark = dest.states(None, None)["rewritten"].sync
    assert mark is not None
    assert mark.version == items["rewritten"].version


def test_a_failed_item_whose_row_was_kept(dest: Collection) -> None:
    items = fill(dest, ["a", "b"])
    dest.fail(TOKEN, {"a": failed(version=items["a"].version), "b": failed()}, keep_rows=True)
    batch = [embedded(item(key, "new")) for key in "ab"]
    assert dest.put(TOKEN, batch, only_unchanged=True) == ["b"]


def test_only_what_nobody_has_changed_is_deleted(dest: Collection, place: Place) -> None:
    fill(dest, ["ours", "rewritten"])
    place.rewrite("dst", "rewritten", {"n": "theirs"})
    dest.delete(TOKEN, ["ours", "rewritten", "unknown"], only_unchanged=True)
    assert dest.missing_keys(["ours", "rewritten"]) == ["ours"]
