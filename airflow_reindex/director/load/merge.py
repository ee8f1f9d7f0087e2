"""All runs' rows of a key range, in key order and in slices; memory is bounded by a setting for any keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model.runs import position, read_part
from airflow_reindex.director.model.split import SLICE_ROWS, KeyRange, RunFiles
from airflow_reindex.director.mysql.types import Rows

#: Bytes that a row of a window takes: the row, its place in the sorted order, its key once more.
BYTES_PER_ROW = 20 + 8 + 8
#: The intended fill of a window: its size is estimated from samples.
FILL = 0.75
#: Rows that are yielded at a time; slices are smaller, unless few keys have very many rows.
PIECE_ROWS = 2 * SLICE_ROWS


@dataclass(frozen=True)
class Piece:
    """
    Rows of a slice in key order, at least one; ``last`` if the slice ends with them.

    Only a large slice has several pieces.
    """

    slice: int
    rows: Rows
    last: bool


@dataclass
class _Window:
    """A buffer for the rows of a key window, of which ``used`` are filled."""

    columns: Rows | None = None
    used: int = 0

    def add(self, rows: Rows, capacity: int) -> bool:
        """Add rows, or as many as fit; returns whether all did."""
        if self.columns is None:
            size = max(1, capacity)
            self.columns = Rows(
                np.empty(size, rows.key.dtype), np.empty(size, np.int32), np.empty(size, rows.sub_chunk.dtype)
            )
        taken = rows.take(slice(0, len(self.columns) - self.used))
        where = slice(self.used, self.used + len(taken))
        self.columns.key[where], self.columns.chunk[where] = taken.key, taken.chunk
        self.columns.sub_chunk[where] = taken.sub_chunk
        self.used += len(taken)
        return len(taken) == len(rows)

    @property
    def rows(self) -> Rows | None:
        return self.columns.take(slice(0, self.used)) if self.columns is not None and self.used else None


class Merger:
    """
    Merges the runs' rows of key ranges.

    Rows are gathered for a window of the key space and sorted there: a row group is decoded once per window, and
    nothing of a run stays in memory between windows. A window that turns out too large is halved; a single key with
    more rows than fit comes in pieces, file by file.

    :param source: the runs' files.
    :param capacity: rows to hold in memory.
    """

    def __init__(self, folder: Folder, source: RunFiles, capacity: int) -> None:
        self._folder, self._source, self._capacity = folder, source, max(1, capacity)
        self._room = _Window()

    def pieces(self, key_range: KeyRange) -> Iterator[Piece]:
        """The rows of a range, in key order; nothing for slices without rows."""
        bounds = key_range.bounds
        slices = len(bounds) - 1
        a_window = max(1, int(FILL * self._capacity * slices / max(1, key_range.rows)))
        for first in range(0, slices, a_window):
            last = min(first + a_window, slices)
            yield from self._window(bounds, first, last)

    def _window(self, bounds: Sequence[int | None], first: int, last: int) -> Iterator[Piece]:
        """Slices ``first`` to ``last`` (excluded) at once or, when they have too many rows, by halves."""
        rows, fits = self._gather(bounds[first], bounds[last])
        if not fits and last - first > 1:
            middle = (first + last) // 2
            yield from self._window(bounds, first, middle)
            yield from self._window(bounds, middle, last)
        elif not fits:
            yield from _ended(Piece(first, piece, last=False) for piece in self._large(bounds[first], bounds[last]))
        elif rows is not None:
            order = np.argsort(rows.key)
            ordered = rows.key[order]
            start = 0
            for number in range(first, last):
                high = bounds[number + 1]
                stop = len(order) if number + 1 == last or high is None else position(ordered, high)
                for piece, ends in _pieces(rows, order, ordered, start, stop):
                    yield Piece(number, piece, last=ends)
                start = stop

    def _large(self, low: int | None, high: int | None) -> Iterator[Rows]:
        """The rows of a key window with more rows than fit into memory, in key order."""
        rows, fits = self._gather(low, high)
        if rows is None:
            return
        if fits:
            order = np.argsort(rows.key)
            for piece, _ in _pieces(rows, order, rows.key[order], 0, len(order)):
                yield piece
            return
        # The median of what was gathered before memory was full: any key would do that leaves less on either side.
        cut = int(np.partition(rows.key, len(rows) // 2)[len(rows) // 2])
        single = int(rows.key.min()) == int(rows.key.max())
        if cut != low:
            yield from self._large(low, cut)
        if single or cut == low:
            # The number of this key's rows is unknown; they need no order.
            yield from self._read(cut, cut + 1)
            cut += 1
        if high is None or cut < high:
            yield from self._large(cut, high)

    def _gather(self, low: int | None, high: int | None) -> tuple[Rows | None, bool]:
        """The rows of a key window in no order, or as many of them as fit, and whether they do."""
        self._room.used = 0
        fits = all(self._room.add(rows, self._capacity) for rows in self._read(low, high))
        return self._room.rows, fits

    def _read(self, low: int | None, high: int | None) -> Iterator[Rows]:
        for name, dropped in self._source.between(low, high):
            for rows in read_part(self._folder, name, low, high):
                kept = rows.take(~np.isin(rows.chunk, dropped)) if len(dropped) else rows
                if len(kept):
                    yield kept


def _pieces(
    rows: Rows, order: npt.NDArray[np.intp], ordered: npt.NDArray[Any], start: int, stop: int
) -> Iterator[tuple[Rows, bool]]:
    """
    Sorted rows in pieces, each with whether it is the last one; a copy of a whole window would not fit into memory.

    Equal keys are in one piece, unless they are too many for one.
    """
    while start < stop:
        end = min(start + PIECE_ROWS, stop)
        if end < stop:
            end = start + (position(ordered[start:end], int(ordered[end])) or end - start)
        yield rows.take(order[start:end]), end == stop
        start = end


def _ended(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same pieces, with the last one marked as such."""
    held: Piece | None = None
    for piece in pieces:
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield Piece(held.slice, held.rows, last=True)
