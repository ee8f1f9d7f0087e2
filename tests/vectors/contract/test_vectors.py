"""What a collection promises of its vectors: index, search, samples, damage, twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airflow_reindex.vectors.model.collection import Collection, Embedded, SyncState, Twins
from airflow_reindex.vectors.model.store import Store
from tests.vectors.contract.samples import (
    CONFIG_HASH,
    DIMENSIONS,
    TOKEN,
    Place,
    created,
    embedded,
    fill,
    item,
)


def test_index_and_search(store: Store, dest: Collection) -> None:
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
def test_index_of_next_to_nothing(dest: Collection, count: int) -> None:
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
def test_metrics(store: Store, metric: Any, order: list[str], exact: bool) -> None:
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


def test_sample(dest: Collection) -> None:
    fill(dest, [f"o{number}" for number in range(20)], parts=1)
    drawn = dest.sample(7)
    assert (drawn.shape, str(drawn.dtype)) == ((7, DIMENSIONS), "float32")
    assert dest.sample(1000).shape == (20, DIMENSIONS)


def test_damage(dest: Collection, place: Place) -> None:
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


def test_equal_vectors(dest: Collection, place: Place) -> None:
    assert dest.twins(10) == Twins()
    fill(dest, ["a", "b"], parts=1)
    assert dest.twins(10) == Twins(), "a lone part's average is equal to it, and does not count"
    same = np.ones((2, DIMENSIONS), np.float32)
    dest.put(TOKEN, [Embedded(item(key), same, SyncState(b"v" * 16, CONFIG_HASH)) for key in ("c", "d")])
    close = np.nextafter(same[:1], 2)
    dest.put(TOKEN, [Embedded(item(key), vectors, SyncState(b"v" * 16, CONFIG_HASH)) for key, vectors in (
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
