"""Loads one key range into the shadow table; each slice commits together with its marker (exactly once)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType

import MySQLdb

from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.core.progress import Progress
from airflow_reindex.director.coordination.claim import lost
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.throttle import LOOK_SECONDS, ConnectionSlots, Pace, Watch
from airflow_reindex.director.load.duplicates import Duplicates
from airflow_reindex.director.load.merge import Merger
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.split import KeyRange
from airflow_reindex.director.mysql.bulk_load import BulkLoadTransport, explain_load_error, load_file, write_text
from airflow_reindex.director.mysql.client import DUPLICATE_KEY, NO_SUCH_TABLE, code_of, execute, transaction
from airflow_reindex.director.mysql.disk_space import ServerDiskSpace
from airflow_reindex.director.mysql.session_settings import TRANSACTION_IDLE_SECONDS
from airflow_reindex.director.mysql.types import Checksum, Rows

log = logging.getLogger(__name__)


@dataclass
class Loaded:
    """
    The outcome of a mapped load task.

    :param rows: rows of the range that are in the shadow table now.
    :param new_rows: those that this attempt loaded.
    :param duplicates: the message for each chunk with duplicate keys; empty when there are none.
    """

    rows: int = 0
    new_rows: int = 0
    duplicates: dict[int, str] = field(default_factory=dict)


class _DuplicatesError(Exception):
    """Duplicate keys were found after the first rows of a slice were loaded: roll it back."""


@dataclass(frozen=True)
class LoadFile:
    """
    Rows of a slice, ready to be loaded.

    :param path: the file; ``None`` when there is nothing to load.
    :param last: whether they are the slice's last rows.
    """

    slice: int
    path: Path | None
    checksum: Checksum
    last: bool


class RangeLoader:
    """
    Loads one key range.

    :param build: over a connection made with ``local_infile`` where the transport is local.
    :param data_dir: as for :class:`ServerDiskSpace`.
    """

    def __init__(
        self,
        build: IndexBuild,
        plan: Plan,
        transport: BulkLoadTransport,
        watch: Watch,
        data_dir: str | None = None,
    ) -> None:
        self._build, self._connection, self._plan = build, build.czar, plan
        self._transport, self._watch, self._pace = transport, watch, Pace(watch)
        self._room = ServerDiskSpace(build.czar, data_dir)
        self._slots = ConnectionSlots(build.czar, build.tables.mark)
        self._duplicates = Duplicates()
        self._done: Mapping[tuple[int, int], Checksum] = {}

    def run(self, merger: Merger, key_range: KeyRange) -> Loaded:
        """
        Load what is missing of a range. A thread merges and writes the next slice while the server loads one.

        After the first duplicate key of a unique index nothing more is loaded, but the rest is still searched, so that
        all duplicates are reported at once.

        :param merger: supplies the range's rows.
        :raises ClaimLostError: when another run has taken over.
        :raises DataError: when the server would have changed or skipped rows.
        :raises SpaceError: when there is no space for the next file.
        """
        self._done = self._build.markers()
        result, slices = Loaded(), len(key_range.bounds) - 1
        progress = Progress(log.info, f"load {key_range.label}", key_range.rows)
        with self._transport.place() as folder, Prefetcher(self._texts(folder, merger, key_range)) as texts:
            for text in texts:
                loaded, rows = self._slice(key_range.number, _of_slice(text, texts))
                if not self._duplicates:
                    result.rows += rows
                    result.new_rows += loaded
                progress.add(rows, f"slice {text.slice + 1} of {slices}")
        result.duplicates = self._duplicates.messages()
        progress.finish("duplicate keys found: nothing more was loaded" if result.duplicates else "")
        return result

    def _texts(self, folder: Path, merger: Merger, key_range: KeyRange) -> Iterator[LoadFile]:
        """Write the files of a range; runs in a thread of its own, one file ahead of the load."""
        build = self._build
        stem = f"reindex-{build.tables.mark}-{build.token}-{build.split}-{key_range.number}"
        number = 0
        for piece in merger.pieces(key_range):
            if self._plan.unique:
                self._duplicates.look(piece.rows)
            idle = self._duplicates or (key_range.number, piece.slice) in self._done
            size = 0 if idle else self._watch.block_rows
            for rows, ends in _blocks(piece.rows, size):
                path = None if idle else folder / f"{stem}-{number}.tsv"
                if path is not None:
                    self._transport.ensure_free_space(len(rows))
                    write_text(rows, path)
                number += 1
                yield LoadFile(piece.slice, path, Checksum.of(rows), last=piece.last and ends)

    def _slice(self, key_range: int, texts: Iterator[LoadFile]) -> tuple[int, int]:
        """Load a slice; returns the number of rows loaded now, and of all its rows."""
        while not self._slots.acquire(self._watch.limits.connections):
            self._watch.wait(LOOK_SECONDS)
        self._watch.check()
        first = next(texts)
        known = self._done.get((key_range, first.slice))
        everything = chain([first], texts)
        if known is not None or first.path is None:
            total = _total(everything)
            if known is not None and known != total:
                raise DataError(
                    f"slice {first.slice} of range {key_range} was loaded with {known.rows} rows, but the staged runs "
                    f"now give {total.rows}: the staging folder was changed. Clear this run from its task 'plan' on.",
                    code=Code.STALE_PLAN,
                )
            return 0, total.rows
        self._room.ensure(first.checksum.rows)
        try:
            total = self._load(key_range, first.slice, everything)
        except _DuplicatesError:
            return 0, _total(everything).rows
        except MySQLdb.Error as error:
            if code_of(error) == NO_SUCH_TABLE:
                raise lost(self._build.tables) from error
            if code_of(error) == DUPLICATE_KEY and (
                total := first.checksum + _total(texts)
            ) == self._build.markers().get((key_range, first.slice)):
                # The same task was delivered twice, and the other delivery has loaded the slice.
                return 0, total.rows
            explained = explain_load_error(error, local=self._transport.local)
            if explained is None:
                raise
            raise explained from error
        # Waits for what `_load` left owing: within its transaction it waits only briefly.
        self._pace.add(0)
        return total.rows, total.rows

    def _load(self, key_range: int, number: int, texts: Iterator[LoadFile]) -> Checksum:
        markers, total = self._build.marker_table, Checksum()
        with transaction(self._connection):
            self._build.fence()
            # Before the first LOAD DATA: a second delivery of this task waits here.
            execute(
                self._connection,
                f"INSERT INTO {markers} VALUES (%s, %s, 0, 0, 0, 0, NOW(6))",  # noqa: S608 - names are quoted
                (key_range, number),
            )
            for text in texts:
                if text.path is None:
                    raise _DuplicatesError
                affected = load_file(
                    self._connection, self._transport, text.path, self._build.shadow, self._plan.key_column
                )
                _unlink(text)
                if affected != text.checksum.rows:
                    raise DataError(
                        f"the server took {affected} of {text.checksum.rows} rows of slice {number} of range "
                        f"{key_range}; the slice was rolled back",
                        code=Code.SERVER_WARNING,
                    )
                total += text.checksum
                # The server closes the session of a transaction that idles for long.
                self._pace.add(affected, TRANSACTION_IDLE_SECONDS / 4)
            execute(
                self._connection,
                f"UPDATE {markers} SET `rows` = %s, `keys` = %s, mix = %s, total = %s, loaded_at = NOW(6) "  # noqa: S608 - names are quoted
                "WHERE `range` = %s AND slice = %s",
                (*astuple(total), key_range, number),
            )
        return total


class Prefetcher:
    """Writes the next :class:`LoadFile` while the server loads the last one; at the end it removes unused files."""

    def __init__(self, texts: Iterator[LoadFile]) -> None:
        self._texts = texts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reindex-merge")
        self._coming: Future[LoadFile | None] | None = None
        self._given: LoadFile | None = None

    def __enter__(self) -> Prefetcher:
        self._coming = self._thread.submit(next, self._texts, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        coming = self._coming
        left = None if coming is None or coming.cancelled() or coming.exception() else coming.result()
        for text in (self._given, left):
            if text is not None:
                _unlink(text)

    def __iter__(self) -> Iterator[LoadFile]:
        return self

    def __next__(self) -> LoadFile:
        if self._coming is None:
            raise StopIteration
        text = self._given = self._coming.result()
        self._coming = None if text is None else self._thread.submit(next, self._texts, None)
        if text is None:
            raise StopIteration
        return text


def _of_slice(first: LoadFile, rest: Iterator[LoadFile]) -> Iterator[LoadFile]:
    text = first
    yield text
    while not text.last:
        text = next(rest)
        yield text


def _blocks(rows: Rows, size: int) -> Iterator[tuple[Rows, bool]]:
    """Rows in blocks of a size (0 for a single block), each with whether it is the last one."""
    step = size or len(rows)
    for start in range(0, len(rows), step):
        yield rows.take(slice(start, start + step)), start + step >= len(rows)


def _total(texts: Iterator[LoadFile]) -> Checksum:
    """The checksum of texts that are not loaded; removes their files."""
    total = Checksum()
    for text in texts:
        _unlink(text)
        total += text.checksum
    return total


def _unlink(text: LoadFile) -> None:
    if text.path is not None:
        text.path.unlink(missing_ok=True)
