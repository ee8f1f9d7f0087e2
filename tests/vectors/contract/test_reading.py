"""What a collection promises to a run that reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airflow_reindex.vectors.model.collection import Collection
from tests.vectors.contract.samples import (
    DIMENSIONS,
    TOKEN,
    Place,
    embedded,
    fill,
    item,
)

KEYS = ["A", "B", "a", "a'b", "aa", "b", "z", "ä", "日"]


def test_empty(dest: Collection) -> None:
    assert dest.count() == dest.count_user_objects() == dest.count_failed("run") == 0
    assert list(dest.keys(10)) == []
    assert dest.versions(None, None) == {}
    assert dest.states(None, None) == {}
    assert dest.items(["a"]) == []
    assert dest.sample(5).shape == (0, DIMENSIONS)
    assert dest.search(np.ones(DIMENSIONS, np.float32), 5, exact=True) == []
    assert (dest.integrity_errors(None, None).incomplete, dest.integrity_errors(None, None).orphans) == ((), 0)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_keys_in_one_order(dest: Collection, place: Place, batch: int) -> None:
    fill(dest, reversed(KEYS))
    place.copy("dst", "a", "copy")
    lists = list(dest.keys(batch))
    assert all(1 <= len(keys) <= batch for keys in lists)
    assert [key for keys in lists for key in keys] == KEYS


def test_ranges(dest: Collection) -> None:
    fill(dest, KEYS)
    everything = dest.versions(None, None)
    assert set(everything) == set(KEYS)
    assert set(dest.versions("B", "aa")) == {"a", "a'b", "aa"}
    assert set(dest.versions(None, "A")) == {"A"}
    assert set(dest.versions("ä", None)) == {"日"}
    assert {key: state.row for key, state in dest.states("B", "aa").items()} == dest.versions("B", "aa")
    assert set(dest.states(None, None, ["a'b", "z", "gone"])) == {"a'b", "z"}
    assert set(dest.states("a", None, ["A", "z"])) == {"z"}
    assert dest.states(None, None, []) == {}


def test_items(dest: Collection) -> None:
    payload = {"text": "quo\"ted\n'", "n": 1.10, "日": [None, True]}
    one = item("a'b", payload, user_id="u", session_id="s")
    dest.put(TOKEN, [embedded(one), embedded(item("b", payload_json=None, storage_meta_json=None))])
    found = {one.object_id: one for one in dest.items(["a'b", "b", "gone"])}
    assert set(found) == {"a'b", "b"}
    assert (found["a'b"].payload, found["a'b"].storage_meta) == (payload, {"file": "a'b"})
    assert (found["a'b"].user_id, found["a'b"].session_id) == ("u", "s")
    assert (found["b"].payload_json, found["b"].storage_meta_json, found["b"].user_id) == (None, None, None)
    assert {key: one.version for key, one in found.items()} == dest.versions(None, None)
    assert len(found["b"].version) == 16


def test_many_keys_at_once(dest: Collection) -> None:
    fill(dest, KEYS)
    many = [*KEYS, *(f"gone{number}" for number in range(3000))]
    assert len(dest.items(many)) == len(dest.states(None, None, many)) == len(KEYS)


def test_versions_follow_contents(source: Collection, dest: Collection, place: Place) -> None:
    items = fill(source, ["a", "b"])
    dest.put(TOKEN, [embedded(one) for one in items.values()])
    assert dest.versions(None, None) == source.versions(None, None)
    assert dest.states(None, None)["a"].row == items["a"].version
    place.rewrite("src", "a", {"n": "changed"})
    now = source.versions(None, None)
    assert now["a"] != items["a"].version
    assert now["b"] == items["b"].version
    changes: list[dict[str, Any]] = [{"user_id": "u"}, {"session_id": "u"}, {"storage_meta_json": None}]
    seen = set()
    for change in changes:
        source.put("token-src", [embedded(item("c", {}, **change))])
        seen.add(source.versions(None, None)["c"])
    assert len(seen) == 3


def test_since_a_horizon(source: Collection, place: Place) -> None:
    fill(source, ["a", "b"])
    watermark = source.watermark()
    place.rewrite("src", "a", {"n": "changed"})
    assert "a" in source.versions(None, None, watermark)
    assert source.versions("a", None, watermark).keys() <= {"b"}


def test_users_copies_are_no_originals(dest: Collection, place: Place) -> None:
    fill(dest, ["a", "b"])
    place.copy("dst", "a", "copy")
    assert (dest.count(), dest.count_user_objects()) == (2, 1)
    assert list(dest.keys(10)) == [["a", "b"]]
    assert "copy" not in dest.versions(None, None).keys() | dest.states(None, None).keys()
    assert dest.items(["copy"]) == []
    assert dest.integrity_errors(None, None).incomplete == ()


def test_absent(dest: Collection) -> None:
    fill(dest, ["a", "c"])
    assert dest.missing_keys(["d", "a", "b", "c"]) == ["d", "b"]
    assert dest.missing_keys([]) == []
