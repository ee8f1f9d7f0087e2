"""What a collection promises to a run that reads or builds it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import ClaimLostError, DataError
from airflow_reindex.vectors.model.collection import MAX_ID, Collection, DestState, Embedded, SyncState, Twins
from airflow_reindex.vectors.model.store import Store
from tests.vectors.contract.samples import (
    CONFIG_HASH,
    DIMENSIONS,
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

KEYS = ["A", "B", "a", "a'b", "aa", "b", "z", "ä", "日"]
TOKEN = "token-dst"


class TestReading:
    def test_empty(self, dest: Collection) -> None:
        assert dest.count() == dest.count_user_objects() == dest.count_failed("run") == 0
        assert list(dest.keys(10)) == []
        assert dest.versions(None, None) == {}
        assert dest.states(None, None) == {}
        assert dest.items(["a"]) == []
        assert dest.sample(5).shape == (0, DIMENSIONS)
        assert dest.search(np.ones(DIMENSIONS, np.float32), 5, exact=True) == []
        assert (dest.integrity_errors(None, None).incomplete, dest.integrity_errors(None, None).orphans) == ((), 0)

    @pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
    def test_keys_in_one_order(self, dest: Collection, place: Place, batch: int) -> None:
        fill(dest, reversed(KEYS))
        place.copy("dst", "a", "copy")
        lists = list(dest.keys(batch))
        assert all(1 <= len(keys) <= batch for keys in lists)
        assert [key for keys in lists for key in keys] == KEYS

    def test_ranges(self, dest: Collection) -> None:
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

    def test_items(self, dest: Collection) -> None:
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

    def test_many_keys_at_once(self, dest: Collection) -> None:
        fill(dest, KEYS)
        many = [*KEYS, *(f"gone{number}" for number in range(3000))]
        assert len(dest.items(many)) == len(dest.states(None, None, many)) == len(KEYS)

    def test_versions_follow_contents(self, source: Collection, dest: Collection, place: Place) -> None:
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

    def test_since_a_horizon(self, source: Collection, place: Place) -> None:
        fill(source, ["a", "b"])
        watermark = source.watermark()
        place.rewrite("src", "a", {"n": "changed"})
        assert "a" in source.versions(None, None, watermark)
        assert source.versions("a", None, watermark).keys() <= {"b"}

    def test_users_copies_are_no_originals(self, dest: Collection, place: Place) -> None:
        fill(dest, ["a", "b"])
        place.copy("dst", "a", "copy")
        assert (dest.count(), dest.count_user_objects()) == (2, 1)
        assert list(dest.keys(10)) == [["a", "b"]]
        assert "copy" not in dest.versions(None, None).keys() | dest.states(None, None).keys()
        assert dest.items(["copy"]) == []
        assert dest.integrity_errors(None, None).incomplete == ()


class TestWriting:
    def test_parts_and_averages(self, dest: Collection) -> None:
        one = embedded(item("a"), parts=3)
        assert dest.put(TOKEN, [one]) == []
        assert part_ids(dest) == {"a:0", "a:1", "a:2", "a:average"}
        for vector, name in zip([*one.vectors, one.average], one.part_ids, strict=True):
            (hit,) = dest.search(vector, 1, exact=True)
            assert (hit.part_id, hit.object_id) == (name, "a")
            assert hit.distance == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize("parts", [1, 5])
    def test_replaced_with_all_parts(self, dest: Collection, parts: int) -> None:
        fill(dest, ["a", "b"], parts=3)
        dest.put(TOKEN, [embedded(item("a", "new"), parts=parts, content="etag")])
        numbers = {f"a:{number}" for number in range(parts)}
        assert part_ids(dest) == numbers | {"a:average", "b:0", "b:1", "b:2", "b:average"}
        assert dest.items(["a"])[0].payload == "new"
        mark = dest.states(None, None)["a"].sync
        assert mark is not None
        assert mark.content == "etag"

    def test_nothing_at_all(self, dest: Collection) -> None:
        assert dest.put(TOKEN, []) == []
        dest.fail(TOKEN, {})
        dest.delete(TOKEN, [])
        assert dest.states(None, None) == {}

    @pytest.mark.parametrize("metric", ["cosine", "euclid", "dot"])
    def test_vectors_are_kept_to_the_last_bit(self, store: Store, metric: Any) -> None:
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
    def test_vectors_that_are_refused(self, dest: Collection, bad: Any) -> None:
        fill(dest, ["a"])
        before = contents(dest)
        with pytest.raises(DataError):
            dest.put(TOKEN, [embedded(item("b")), Embedded(item("a"), bad, SyncState(b"v", b"r"))])
        assert contents(dest) == before

    def test_ids_that_are_refused(self, dest: Collection) -> None:
        with pytest.raises(DataError):
            dest.put(TOKEN, [embedded(item("b")), embedded(item("k" * (MAX_ID + 1)))])
        assert contents(dest)[1] == {}

    def test_a_users_copy_is_not_overwritten(self, dest: Collection, place: Place) -> None:
        fill(dest, ["a"])
        place.copy("dst", "a", "copy")
        dest.put(TOKEN, [embedded(item("a"))])
        for only_unchanged in (False, True):
            with pytest.raises(DataError, match="a user's copy"):
                dest.put(TOKEN, [embedded(item("b")), embedded(item("copy"))], only_unchanged=only_unchanged)
        assert (dest.count(), dest.count_user_objects()) == (1, 1)

    def test_failures(self, dest: Collection) -> None:
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

    def test_failures_that_keep_rows(self, dest: Collection) -> None:
        items = fill(dest, ["a", "b"])
        dest.fail(TOKEN, {"a": failed()}, keep_rows=True)
        assert dest.states(None, None)["a"] == DestState(items["a"].version, failed())
        assert dest.count() == 2
        assert dest.count_failed("run") == 1

    def test_delete(self, dest: Collection, place: Place) -> None:
        fill(dest, ["a", "b", "c"])
        dest.fail(TOKEN, {"f": failed()})
        place.copy("dst", "a", "copy")
        place.copy("dst", "b", "c2")
        dest.delete(TOKEN, ["a", "f", "gone", "c2"])
        assert set(dest.states(None, None)) == {"b", "c"}
        assert (dest.count(), dest.count_user_objects(), dest.count_failed("run")) == (2, 1, 0)
        assert {part for part in part_ids(dest) if part.startswith(("a", "copy"))} == set()

    def test_zombies_change_nothing(self, store: Store, dest: Collection) -> None:
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

    def test_many_threads(self, dest: Collection) -> None:
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

    def test_the_same_batch_by_two_tries_at_once(self, dest: Collection) -> None:
        def write(number: int) -> None:
            dest.put(TOKEN, [embedded(item(key), parts=2, seed=number) for key in "abc"])

        for _ in range(3):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(write, range(2)))
            assert dest.count() == 3
            found = [hit.part_id for hit in dest.search(np.ones(DIMENSIONS, np.float32), 100, exact=True)]
            assert sorted(found) == sorted(f"{key}:{end}" for key in "abc" for end in (0, 1, "average"))
            dest.delete(TOKEN, ["a", "b", "c"])


class TestOnlyUnchanged:
    def test_what_somebody_else_wrote_is_left_alone(self, dest: Collection, place: Place) -> None:
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

    def test_a_failed_item_whose_row_was_kept(self, dest: Collection) -> None:
        items = fill(dest, ["a", "b"])
        dest.fail(TOKEN, {"a": failed(version=items["a"].version), "b": failed()}, keep_rows=True)
        batch = [embedded(item(key, "new")) for key in "ab"]
        assert dest.put(TOKEN, batch, only_unchanged=True) == ["b"]


class TestVectors:
    def test_index_and_search(self, store: Store, dest: Collection) -> None:
        assert not dest.has_index()
        fill(dest, [f"o{number:03d}" for number in range(120)])
        dest.build_index(TOKEN)
        assert store.open("dst").has_index()
        dest.build_index(TOKEN)
        for query in dest.sample(5):
            exact, found = dest.search(query, 10, exact=True), dest.search(query, 10)
            assert len(exact) == len(found) == 10
            assert exact[0].distance == pytest.approx(0, abs=1e-5)
            for hits in (exact, found):
                assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
            assert len({hit.part_id for hit in exact} & {hit.part_id for hit in found}) >= 9
        fill(dest, ["late"])
        assert dest.has_index()
        late = embedded(item("late"), seed=0)
        assert "late" in {hit.object_id for hit in dest.search(late.vectors[0], 5)}
        dest.delete(TOKEN, ["late"])
        assert "late" not in {hit.object_id for hit in dest.search(late.vectors[0], 20)}

    @pytest.mark.parametrize("count", [0, 1])
    def test_index_of_next_to_nothing(self, dest: Collection, count: int) -> None:
        fill(dest, ["a"][:count])
        dest.build_index(TOKEN)
        assert dest.has_index()
        assert len(dest.search(np.ones(DIMENSIONS, np.float32), 10)) == 3 * count

    @pytest.mark.parametrize(
        ("metric", "order"),
        [("cosine", ["far", "near", "away"]), ("euclid", ["near", "away", "far"]), ("dot", ["far", "near", "away"])],
        ids=["cosine", "euclid", "dot"],
    )
    @pytest.mark.parametrize("exact", [True, False])
    def test_metrics(self, store: Store, metric: Any, order: list[str], exact: bool) -> None:
        dest = created(store, "dst", metric=metric)
        vectors = {"far": [9.0, 0, 0, 0], "near": [1.0, 0.5, 0, 0], "away": [-1.0, 0, 0, 0]}
        dest.put(
            TOKEN,
            [Embedded(item(k), np.array([v], np.float32), SyncState(b"v" * 16, b"r" * 16)) for k, v in vectors.items()],
        )
        dest.build_index(TOKEN)
        hits = dest.search(np.array([1.0, 0, 0, 0], np.float32), 6, exact=exact)
        assert [hit.object_id for hit in hits[::2]] == order
        assert store.find("dst") == dest.info

    def test_sample(self, dest: Collection) -> None:
        fill(dest, [f"o{number}" for number in range(20)], parts=1)
        drawn = dest.sample(7)
        assert (drawn.shape, str(drawn.dtype)) == ((7, DIMENSIONS), "float32")
        assert dest.sample(1000).shape == (20, DIMENSIONS)

    def test_damage(self, dest: Collection, place: Place) -> None:
        fill(dest, ["a", "b", "c", "d"])
        place.strip("dst", "b", False)
        place.strip("dst", "c", True)
        assert list(dest.integrity_errors(None, None).incomplete) == ["b", "c"]
        assert list(dest.integrity_errors("b", None).incomplete) == ["c"]
        assert list(dest.integrity_errors("c", None).incomplete) == []
        dest.delete(TOKEN, ["b", "c"])
        fill(dest, ["b", "c"])
        damage = dest.integrity_errors(None, None)
        assert (list(damage.incomplete), damage.orphans) == ([], 0)


def test_absent(dest: Collection) -> None:
    fill(dest, ["a", "c"])
    assert dest.missing_keys(["d", "a", "b", "c"]) == ["d", "b"]
    assert dest.missing_keys([]) == []


def test_only_what_nobody_has_changed_is_deleted(dest: Collection, place: Place) -> None:
    fill(dest, ["ours", "rewritten"])
    place.rewrite("dst", "rewritten", {"n": "theirs"})
    dest.delete(TOKEN, ["ours", "rewritten", "unknown"], only_unchanged=True)
    assert dest.missing_keys(["ours", "rewritten"]) == ["ours"]


def test_equal_vectors(dest: Collection, place: Place) -> None:
    assert dest.twins(10) == Twins()
    fill(dest, ["a", "b"], parts=1)
    assert dest.twins(10) == Twins(), "a lone part's average is equal to it, and does not count"
    same = np.ones((2, DIMENSIONS), np.float32)
    dest.put("token-dst", [Embedded(item(key), same, SyncState(b"v" * 16, CONFIG_HASH)) for key in ("c", "d")])
    close = np.nextafter(same[:1], 2)
    dest.put("token-dst", [Embedded(item(key), vectors, SyncState(b"v" * 16, CONFIG_HASH)) for key, vectors in (
        ("e", close), ("f", close), ("g", np.nextafter(close, 2))
    )])  # fmt: skip
    place.copy("dst", "e", "theirs")
    found = dest.twins(10)
    assert (found.parts, found.shared) == (9, 6)
    assert [count for count, *_ in found.pairs] == [4, 2]
    ends = [sorted(pair) for _, *pair in found.pairs]
    assert {part for pair in ends for part in pair} <= {
        ("c:0", "c"), ("c:1", "c"), ("d:0", "d"), ("d:1", "d"), ("e:0", "e"), ("f:0", "f")
    }  # fmt: skip
    assert ends[1] == [("e:0", "e"), ("f:0", "f")]
    assert all(one != other for one, other in ends)
    first = dest.twins(1)
    assert (first.parts, first.shared, list(first.pairs)) == (9, 6, list(found.pairs[:1]))
