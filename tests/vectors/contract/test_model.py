"""Random writes, compared to a dictionary after each."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_reindex.vectors.model.collection import Collection, SyncState
from tests.vectors.contract.samples import CONFIG_HASH, Place, embedded, failed, item, part_ids

KEYS = [f"{letter}{sign}{number}" for letter in "aB" for sign in ("", "'") for number in range(3)]
STEPS = 15


@dataclass
class Model:
    """
    What there should be.

    :param rows: payload, number of parts, and whether the row is what the mark describes.
    :param marks: by key.
    """

    rows: dict[str, tuple[Any, int, bool]] = field(default_factory=dict)
    marks: dict[str, SyncState] = field(default_factory=dict)

    def may_replace(self, key: str) -> bool:
        """Whether a careful write replaces the object."""
        mark = self.marks.get(key)
        if key in self.rows:
            return self.rows[key][2]
        return mark is None or bool(mark.stage)


class Walk:
    """Does the same to a collection and to the model."""

    def __init__(self, dest: Collection, place: Place, seed: int) -> None:
        self.dest, self.place, self.random, self.model = dest, place, random.Random(seed), Model()

    def some(self, most: int = 4) -> list[str]:
        """Some keys."""
        return self.random.sample(KEYS, self.random.randint(1, most))

    def put(self) -> None:
        """Write what the store will describe as it is: its version is asked for."""
        careful = self.random.random() < 0.5
        keys, parts, payload = self.some(), self.random.randint(1, 3), self.random.randint(0, 99)
        batch = [embedded(item(key, payload), parts, plan_token=str(payload)) for key in keys]
        expected = {key for key in keys if careful and not self.model.may_replace(key)}
        assert set(self.dest.put("token-dst", batch, only_unchanged=careful)) == expected
        landed = [key for key in keys if key not in expected]
        for found in self.dest.items(landed):
            mark = SyncState(found.version, CONFIG_HASH, plan_token=str(payload))
            self.dest.put("token-dst", [embedded(found, parts, plan_token=str(payload))])
            self.model.rows[found.object_id] = (payload, parts, True)
            self.model.marks[found.object_id] = mark

    def fail(self) -> None:
        """Remember failures."""
        keep, keys = self.random.random() < 0.5, self.some(2)
        versions = self.dest.versions(None, None)
        marks = {key: failed(version=versions.get(key, b"v" * 16)) for key in keys}
        self.dest.fail("token-dst", marks, keep_rows=keep)
        for key in keys:
            self.model.marks[key] = marks[key]
            if key in self.model.rows:
                self.model.rows[key] = (*self.model.rows[key][:2], True)
            if not keep:
                self.model.rows.pop(key, None)

    def delete(self) -> None:
        """Remove objects."""
        keys = self.some(3)
        self.dest.delete("token-dst", keys)
        for key in keys:
            self.model.rows.pop(key, None)
            self.model.marks.pop(key, None)

    def interfere(self) -> None:
        """Somebody else changes or removes a row."""
        if not self.model.rows:
            return
        key = self.random.choice(sorted(self.model.rows))
        if self.random.random() < 0.5:
            self.place.remove("dst", key)
            del self.model.rows[key]
        else:
            payload = f"theirs {self.random.random()}"
            self.place.rewrite("dst", key, payload)
            self.model.rows[key] = (payload, self.model.rows[key][1], False)

    def compare(self) -> None:
        """Look at all that can be read."""
        rows, marks, dest = self.model.rows, self.model.marks, self.dest
        states = dest.states(None, None)
        assert {key: state.sync for key, state in states.items() if state.sync} == marks
        assert {key for key, state in states.items() if state.row} == rows.keys()
        for key, (_, _, ours) in rows.items():
            mark = marks[key]
            assert (states[key].row == mark.version) == ours
        assert {one.object_id: json.loads(one.payload_json or "") for one in dest.items(KEYS)} == {
            key: payload for key, (payload, _, _) in rows.items()
        }
        assert [key for keys in dest.keys(5) for key in keys] == sorted(rows)
        assert (dest.count(), dest.count_failed("run")) == (len(rows), sum(bool(m.stage) for m in marks.values()))
        ends = {key: [*range(parts), "average"] for key, (_, parts, _) in rows.items()}
        assert part_ids(dest) == {f"{key}:{end}" for key in ends for end in ends[key]}
        low, high = sorted(self.random.sample(KEYS, 2))
        assert dest.states(low, high) == {key: state for key, state in states.items() if low < key <= high}


@pytest.mark.parametrize("seed", range(2))
def test_random_writes(dest: Collection, place: Place, seed: int) -> None:
    walk = Walk(dest, place, seed)
    for _ in range(STEPS):
        walk.random.choice([walk.put, walk.put, walk.fail, walk.delete, walk.interfere])()
        walk.compare()
