"""Comparison of a key range with the index: both sides come in key order, and neither is ever whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from airflow_reindex.director.audit.differences import Differences
from airflow_reindex.director.audit.index import IndexReader
from airflow_reindex.director.audit.multiset_diff import MultisetDiff
from airflow_reindex.director.mysql.types import Rows


class Comparison:
    """
    Compares one key range.

    :param reader: reads the index.
    :param ledger: takes both sides.
    :param advance: called with the number of rows that were just read from the chunk tables.
    """

    def __init__(self, reader: IndexReader, ledger: MultisetDiff, advance: Callable[[int], None]) -> None:
        self._reader, self._ledger, self._advance = reader, ledger, advance
        self.rows = 0

    @property
    def differences(self) -> Differences:
        return self._ledger.differences

    def all(self, pieces: Iterable[Rows], windows: Iterable[tuple[int | None, int | None]]) -> None:
        """
        Compare the chunk tables' rows in a key range, which come in key order, with all rows of the index there.

        :param windows: the key windows that make up the range, in order; the index is read one window at a time.
        """
        source = _Side(self._counted(pieces), self._ledger.source)
        index = _Side((rows for window in windows for rows in self._reader.window(*window)), self._ledger.index)
        while not (source.ended and index.ended):
            # Advance the side that is behind; what both have passed is settled.
            behind = min((side for side in (source, index) if not side.ended), key=lambda side: side.reached)
            behind.advance()
            bounds = [side.key for side in (source, index) if not side.ended]
            if None not in bounds:
                self._ledger.flush_below(min((key for key in bounds if key is not None), default=None))

    def some(self, pieces: Iterable[Rows]) -> None:
        """Compare rows of the chunk tables, in key order, with the rows of the index that have the same keys."""
        for rows in self._counted(pieces):
            self._ledger.source(rows)
            # The last key may continue in the next piece.
            self._look_up(int(rows.key[-1]))
        self._look_up(None)

    def _look_up(self, before: int | None) -> None:
        keys: Sequence[int] = self._ledger.keys(before).tolist()
        for rows in self._reader.keys(keys):
            self._ledger.index(rows)
        self._ledger.flush_below(before)

    def _counted(self, pieces: Iterable[Rows]) -> Iterator[Rows]:
        for rows in pieces:
            self.rows += len(rows)
            self._advance(len(rows))
            yield rows


class _Side:
    """Rows that come in key order, and the key that they have reached."""

    def __init__(self, pieces: Iterator[Rows], add: Callable[[Rows], None]) -> None:
        self._pieces, self._enter = pieces, add
        self.key: int | None = None
        self.ended = False

    @property
    def reached(self) -> tuple[bool, int]:
        """The last key; before any, lower than all."""
        return self.key is not None, self.key or 0

    def advance(self) -> None:
        """Enter one more piece."""
        rows = next(self._pieces, None)
        if rows is None:
            self.ended = True
        elif len(rows):
            self._enter(rows)
            self.key = int(rows.key[-1])
