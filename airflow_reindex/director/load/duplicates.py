"""Duplicate keys, and the messages for the chunks that have them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from airflow_reindex.director.mysql.types import Rows

#: The number of keys that an error quotes of each pair of chunks.
QUOTED_KEYS = 5
#: The number of other chunks that a chunk's message names.
QUOTED_CHUNKS = 10


class Duplicates:
    """Keys that occur more than once, by the pair of chunks that they occur in."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], list[int]] = {}
        self._counts: dict[tuple[int, int], int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def look(self, rows: Rows) -> None:
        """Search a slice's rows, in key order. Equal keys are always in one slice."""
        at = np.flatnonzero(rows.key[1:] == rows.key[:-1])
        if not len(at):
            return
        ends = np.sort(np.stack([rows.chunk[at], rows.chunk[at + 1]], axis=1), axis=1)
        # A key in three rows of a chunk is one key: equal neighbours of a pair count once.
        order = np.lexsort((rows.key[at], ends[:, 1], ends[:, 0]))
        at, ends = at[order], ends[order]
        new = np.ones(len(at), bool)
        new[1:] = (rows.key[at][1:] != rows.key[at][:-1]) | (ends[1:] != ends[:-1]).any(axis=1)
        at, ends = at[new], ends[new]
        pairs, first, counts = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
        for number, (pair, count) in enumerate(zip(pairs.tolist(), counts.tolist(), strict=True)):
            keys = rows.key[at[np.flatnonzero(first.ravel() == number)[:QUOTED_KEYS]]]
            self._note((pair[0], pair[1]), count, keys.tolist())

    def _note(self, pair: tuple[int, int], count: int, keys: Sequence[int]) -> None:
        self._counts[pair] += count
        sample = self._pairs.setdefault(pair, [])
        sample += keys[: QUOTED_KEYS - len(sample)]

    def messages(self) -> dict[int, str]:
        """By chunk: the number of its duplicate keys, with a sample of them and the other chunks."""
        lines: dict[int, list[str]] = defaultdict(list)
        for (one, other), sample in sorted(self._pairs.items()):
            text = f"{self._counts[one, other]} duplicate key(s), such as {', '.join(map(str, sample))}"
            lines[one].append(f"{text}: twice within the chunk" if one == other else f"{text}: also in chunk {other}")
            if one != other:
                lines[other].append(f"{text}: also in chunk {one}")
        return {chunk: _join(texts) for chunk, texts in lines.items()}


def _join(texts: Sequence[str]) -> str:
    more = len(texts) - QUOTED_CHUNKS
    return "; ".join(texts[:QUOTED_CHUNKS]) + (f"; and with {more} more chunks" if more > 0 else "")
