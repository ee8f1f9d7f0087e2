"""Streaming multiset diff of two key-ordered row streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_reindex.director.audit.differences import MISSING, SURPLUS, WRONG, Differences
from airflow_reindex.director.model.runs import position
from airflow_reindex.director.mysql.types import Rows

Counts = npt.NDArray[np.int64]
#: Bytes that a row takes until it is settled: itself twice, its place among the others, its balance.
BYTES_PER_ROW = 2 * 20 + 3 * 8


@dataclass(frozen=True)
class Scope:
    """The chunks, or all chunks but these, whose rows in the index must be among the chunk tables' rows."""

    chunks: npt.NDArray[np.int32]
    others: bool

    def covers(self, chunks: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """A mask of the rows that are in the scope, from their chunks."""
        return np.isin(chunks, self.chunks, invert=self.others)


class MultisetDiff:
    """
    Compares rows as multisets; the two sides come in key order, in pieces that need not end at the same keys.

    Memory holds the rows that are not settled yet. Rows with equal keys may come in any order and number: when there
    are more than ``capacity`` rows, equal ones are counted.

    :param scope: index rows outside of it are never reported as surplus; they only turn a missing row into a wrong one.
    :param capacity: rows to hold before equal ones are counted.
    """

    def __init__(self, scope: Scope, capacity: int) -> None:
        self._scope, self._capacity = scope, capacity
        self._source: list[Rows] = []
        self._index: list[Rows] = []
        # Counted rows, in key order: above 0 where the chunk tables have more of them.
        self._counted: tuple[Rows, Counts] | None = None
        self._compact_at = capacity
        self.differences = Differences()

    def __len__(self) -> int:
        return sum(map(len, [*self._source, *self._index])) + (len(self._counted[0]) if self._counted else 0)

    def source(self, rows: Rows) -> None:
        """Add rows of the chunk tables, in key order."""
        self._enter(self._source, rows)

    def index(self, rows: Rows) -> None:
        """Add rows of the index, in key order."""
        self._enter(self._index, rows)

    def flush_below(self, before: int | None) -> None:
        """Classify the rows with keys below a bound, where both sides are complete; ``None`` for all keys."""
        source, self._source = _cut(self._source, before)
        index, self._index = _cut(self._index, before)
        counted = self._counted
        if counted is None and _equal(source, index):
            # The usual case, and much faster than sorting them together.
            return
        self._counted = None
        rows, balance = _balanced(source, index, counted)
        end = len(rows) if before is None else position(rows.key, before)
        self._judge(rows.take(slice(0, end)), balance[:end])
        if end < len(rows):
            self._counted = rows.take(slice(end, None)), balance[end:]

    def keys(self, before: int | None) -> npt.NDArray[Any]:
        """The distinct keys that are not settled, ascending: those below a bound, or all for ``None``."""
        held = [*self._source, *self._index, *([self._counted[0]] if self._counted else [])]
        below, _ = _cut(held, before)
        return np.unique(np.concatenate([np.unique(rows.key) for rows in below])) if below else np.empty(0, np.int64)

    def _enter(self, side: list[Rows], rows: Rows) -> None:
        if not len(rows):
            return
        side.append(rows)
        if len(self) > self._compact_at:
            counted = _balanced(self._source, self._index, self._counted)
            self._source, self._index, self._counted = [], [], counted
            # Rows that all differ cannot become fewer: sorting them again for each piece would take for ever.
            self._compact_at = max(self._capacity, 2 * len(counted[0]))

    def _judge(self, rows: Rows, balance: Counts) -> None:
        """Record rows that only one side has; a key that both have with other values is wrong, once per pair."""
        missing, surplus = rows.take(balance > 0), rows.take(balance < 0)
        lacking, extra = balance[balance > 0], -balance[balance < 0]
        wrong = _paired(missing, lacking, surplus, extra)
        rest = np.where(self._scope.covers(surplus.chunk), extra - _paired(surplus, extra, missing, lacking), 0)
        for kind, which, counts in (
            (WRONG, missing, wrong),
            (MISSING, missing, lacking - wrong),
            (SURPLUS, surplus, rest),
        ):
            there = counts > 0
            if there.any():
                self.differences.note(kind, which.take(there), counts[there])


def _cut(side: list[Rows], before: int | None) -> tuple[list[Rows], list[Rows]]:
    """The rows below a key, and the others."""
    below, above = [], []
    for rows in side:
        end = len(rows) if before is None else position(rows.key, before)
        below += [rows.take(slice(0, end))] if end else []
        above += [rows.take(slice(end, None))] if end < len(rows) else []
    return below, above


def _equal(source: list[Rows], index: list[Rows]) -> bool:
    """Whether both sides are the same, row by row."""
    if not source or not index:
        return not source and not index
    one, other = Rows.joined(source), Rows.joined(index)
    return (
        np.array_equal(one.key, other.key)
        and np.array_equal(one.chunk, other.chunk)
        and np.array_equal(one.sub_chunk, other.sub_chunk)
    )


def _balanced(source: list[Rows], index: list[Rows], counted: tuple[Rows, Counts] | None) -> tuple[Rows, Counts]:
    """The distinct rows that one side has more of, in key order, and how many more: below 0 where the index does."""
    rows = Rows.joined([*source, *index, *([counted[0]] if counted else [])])
    signs = [np.full(sum(map(len, source)), 1, np.int64), np.full(sum(map(len, index)), -1, np.int64)]
    counts = np.concatenate([*signs, *([counted[1]] if counted else [])])
    order = np.lexsort((rows.sub_chunk, rows.chunk, rows.key))
    rows, counts = rows.take(order), counts[order]
    new = np.ones(len(rows), bool)
    new[1:] = (
        (rows.key[1:] != rows.key[:-1])
        | (rows.chunk[1:] != rows.chunk[:-1])
        | (rows.sub_chunk[1:] != rows.sub_chunk[:-1])
    )
    first = np.flatnonzero(new)
    sums = np.add.reduceat(counts, first)
    left = sums != 0
    return rows.take(first[left]), sums[left]


def _paired(rows: Rows, counts: Counts, others: Rows, other_counts: Counts) -> Counts:
    """How many copies of each row have a partner with the same key on the other side; earlier rows get one first."""
    if not len(rows) or not len(others):
        return np.zeros(len(rows), np.int64)
    keys, first = np.unique(others.key, return_index=True)
    available = np.add.reduceat(other_counts, first)
    at = np.minimum(np.searchsorted(keys, rows.key), len(keys) - 1)
    partners = np.where(keys[at] == rows.key, available[at], 0)
    before = np.cumsum(counts) - counts
    start = np.searchsorted(rows.key, rows.key)
    result: Counts = np.clip(partners - (before - before[start]), 0, counts)
    return result
