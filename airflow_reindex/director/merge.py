"""All runs' rows of a key range in key order, slice by slice, and the keys that occur twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.columns import Rows
from airflow_reindex.director.runs import read_groups
from airflow_reindex.director.split import KeyRange

#: How many keys an error quotes of each pair of chunks.
QUOTED_KEYS = 5
#: How many of the chunks that share keys with it a chunk's message names.
QUOTED_CHUNKS = 10


class RunCursor:
    """
    Walks through one sorted file; each row group is read once.

    :param folder: the run's folder.
    :param name: the file's name.
    :param low: the first key wanted; ``None`` for all.
    """

    def __init__(self, folder: Folder, name: str, low: int | None) -> None:
        self._folder, self._name, self._low = folder, name, low
        with folder.open(name) as stream:
            self._metadata = pq.ParquetFile(stream).metadata
        stats = [self._metadata.row_group(i).column(0).statistics for i in range(self._metadata.num_row_groups)]
        self._first = [stat.min for stat in stats]
        self._last = [stat.max for stat in stats]
        self._next = next((i for i, last in enumerate(self._last) if low is None or last >= low), len(stats))
        self._held: Rows | None = None

    def take(self, high: int | None) -> Rows | None:
        """
        The next rows, up to a key.

        :param high: the first key that is not wanted; ``None`` for all that is left.
        :returns: the rows in key order; ``None`` when there are none.
        """
        stop = self._next
        while stop < len(self._first) and (high is None or self._first[stop] < high):
            stop += 1
        if stop > self._next:
            read = read_groups(self._folder, self._name, self._metadata, range(self._next, stop))
            if self._low is not None:
                # Only the first group of a range can have keys below it.
                read, self._low = read.take(slice(_position(read.key, self._low), None)), None
            self._held = read if self._held is None else concatenate([self._held, read])
            self._next = stop
        if self._held is None:
            return None
        cut = len(self._held) if high is None else _position(self._held.key, high)
        taken, left = self._held.take(slice(0, cut)), self._held.take(slice(cut, None))
        # A copy lets go of the row groups that are done with.
        self._held = Rows(left.key.copy(), left.chunk.copy(), left.sub_chunk.copy()) if len(left) else None
        return taken if len(taken) else None


def merged(folder: Folder, files: Sequence[str], key_range: KeyRange) -> Iterator[Rows | None]:
    """
    Merge the files' rows of a key range.

    Memory holds one slice, and of each file at most the row groups that reach over its end.

    :param folder: the run's folder.
    :param files: the sorted files.
    :param key_range: the range.
    :yields: the rows of each slice in key order; ``None`` for a slice without rows.
    """
    cursors = [RunCursor(folder, name, key_range.bounds[0]) for name in files]
    for _, high in key_range.slices():
        pieces = [piece for cursor in cursors if (piece := cursor.take(high)) is not None]
        yield concatenate(pieces).sorted() if pieces else None


def concatenate(pieces: Sequence[Rows]) -> Rows:
    """
    Join rows.

    :param pieces: at least one.
    :returns: all rows, in the order given.
    """
    if len(pieces) == 1:
        return pieces[0]
    return Rows(
        np.concatenate([piece.key for piece in pieces]),
        np.concatenate([piece.chunk for piece in pieces]),
        np.concatenate([piece.sub_chunk for piece in pieces]),
    )


class Duplicates:
    """Keys that occur more than once, by the pair of chunks that they occur in."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], list[int]] = {}
        self._counts: dict[tuple[int, int], int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def look(self, rows: Rows) -> None:
        """
        Look through a slice. Equal keys are always in one slice.

        :param rows: its rows in key order.
        """
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
        """
        What to say of each chunk involved.

        :returns: by chunk: how many keys it shares, with a sample of them and the other chunks.
        """
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


def _position(keys: npt.NDArray[Any], key: int) -> int:
    # The bound's type must be the column's own: comparing int64 with uint64 goes through float64 and loses keys.
    return int(np.searchsorted(keys, keys.dtype.type(key)))
