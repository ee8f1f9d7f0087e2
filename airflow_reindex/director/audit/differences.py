"""Differences of an index: rows that are missing, surplus, or listed with another chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_reindex.director.mysql.types import Rows

#: The number of keys that a message quotes of each kind.
QUOTED_KEYS = 5
#: Stands for a chunk that is NULL in the index, and for chunks beyond this number of them: a broken index may have any
#: number as a chunk.
NO_CHUNK, MOST_CHUNKS = -1, 200_000
#: In a chunk table, but not in the index.
MISSING = "missing"
#: In the index, but not in the chunk table that it names.
SURPLUS = "surplus"
#: In both, but with another chunk or sub-chunk.
WRONG = "wrong"
TEXTS = {
    MISSING: "row(s) missing in the index",
    SURPLUS: "row(s) of the index are not in the chunk table",
    WRONG: "row(s) have another chunk or sub-chunk in the index",
}


@dataclass
class Differences:
    """Differences as ``{chunk: {kind: (number of rows, some keys)}}``."""

    counts: dict[int, dict[str, tuple[int, list[int]]]] = field(default_factory=dict)

    def note(self, kind: str, rows: Rows, counts: npt.NDArray[np.int64]) -> None:
        """Record rows of one kind, each for its chunk, and the number of rows, at least 1, that each stands for."""
        order = np.argsort(rows.chunk, kind="stable")
        chunks, first, sizes = np.unique(rows.chunk[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(counts[order], first) if len(order) else sizes
        for chunk, start, size, total in zip(*(a.tolist() for a in (chunks, first, sizes, sums)), strict=True):
            keys = rows.key[order[start : start + min(size, QUOTED_KEYS)]].tolist()
            self._add(chunk, kind, total, keys)

    def merge(self, value: Mapping[str, Mapping[str, tuple[int, list[int]]]]) -> None:
        """Add what another task has found, in the form of :meth:`as_dict`."""
        for chunk, kinds in value.items():
            for kind, (count, keys) in kinds.items():
                self._add(int(chunk), kind, count, keys)

    def as_dict(self) -> dict[str, Any]:
        """The differences as plain JSON types."""
        return {
            str(chunk): {kind: list(found) for kind, found in kinds.items()} for chunk, kinds in self.counts.items()
        }

    def totals(self) -> dict[str, int]:
        """The number of rows that differ, by kind."""
        return {
            kind: sum(kinds[kind][0] for kinds in self.counts.values() if kind in kinds)
            for kind in (MISSING, SURPLUS, WRONG)
        }

    def messages(self) -> dict[int, str]:
        """The message for each chunk."""
        return {chunk: "; ".join(_texts(kinds)) for chunk, kinds in sorted(self.counts.items())}

    def _add(self, chunk: int, kind: str, count: int, keys: list[int]) -> None:
        chunk = chunk if chunk in self.counts or len(self.counts) < MOST_CHUNKS else NO_CHUNK
        known, sample = self.counts.setdefault(chunk, {}).get(kind, (0, []))
        self.counts[chunk][kind] = (known + count, (sample + keys)[:QUOTED_KEYS])


def _texts(kinds: Mapping[str, tuple[int, list[int]]]) -> Iterable[str]:
    for kind, text in TEXTS.items():
        if kind in kinds:
            count, keys = kinds[kind]
            yield f"{count} {text}, such as {', '.join(map(str, keys))}"
