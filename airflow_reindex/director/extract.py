"""Chunk tables to sorted runs: stream, check, sort, write; one mapped task's chunks at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import MySQLdb
import numpy as np
from MySQLdb.constants import FIELD_TYPE
from MySQLdb.cursors import SSCursor

from airflow_reindex.core.failures import DataError, ReindexError, TransientError, detail
from airflow_reindex.core.identifiers import quote
from airflow_reindex.core.progress import Progress
from airflow_reindex.core.report import Failure
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.columns import Checksum, IntegerType, Rows
from airflow_reindex.director.plan import Plan, PlannedChunk
from airflow_reindex.director.runs import Manifest, StagedChunk, StagedFile, new_name, write_file
from airflow_reindex.director.sql import Connect, Connection, describe, is_transient, prepare

log = logging.getLogger(__name__)

#: The protocol's integer types: a DOUBLE would be cut to an integer without a word.
INTEGER_FIELDS = frozenset({FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG})
#: Rows fetched from the driver at a time: Python objects live no longer than one such batch.
FETCH_ROWS = 50_000


@dataclass
class Outcome:
    """
    What became of a mapped extract task.

    :param chunks: chunks that are staged now, by this try.
    :param rows: their rows.
    :param bytes: what they take in the staging folder.
    :param failures: chunks that failed on a worker, each with every replica that was tried.
    :param transient: whether one of them may succeed when tried again.
    """

    chunks: int = 0
    rows: int = 0
    bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    transient: bool = False


def layout(plan: Plan) -> str:
    """
    What the rows of a run look like; only runs of one layout can be merged.

    :param plan: the plan.
    :returns: a text to compare.
    """
    request = plan.request
    return "|".join(
        [request.database, request.director_table, plan.key_column, plan.key.dtype.name, plan.sub_chunk.dtype.name]
    )


class RunBuffer:
    """
    Collects rows of whole chunks and writes them as sorted runs; memory is bounded by ``capacity``.

    A chunk larger than that is written in parts, which count only when its last row was read.

    :param folder: the run's folder.
    :param plan: the plan.
    :param group: the mapped task's number.
    :param capacity: rows to hold, at least the fetch size.
    """

    def __init__(self, folder: Folder, plan: Plan, group: int, capacity: int) -> None:
        self._folder, self._plan, self._group = folder, plan, group
        size = max(capacity, FETCH_ROWS)
        # Untouched pages cost nothing, so a small task stays small.
        self._rows = Rows(
            np.empty(size, plan.key.dtype), np.empty(size, np.int32), np.empty(size, plan.sub_chunk.dtype)
        )
        self._used = self._start = 0
        self._done: list[StagedChunk] = []
        self._parts: list[StagedFile] = []
        self.written = 0

    def add(self, rows: Rows) -> None:
        """
        Take some rows of the current chunk.

        :param rows: at most :data:`FETCH_ROWS`.
        """
        if self._used + len(rows) > len(self._rows):
            self._make_room(len(rows))
        where = slice(self._used, self._used + len(rows))
        self._rows.key[where], self._rows.chunk[where], self._rows.sub_chunk[where] = (
            rows.key,
            rows.chunk,
            rows.sub_chunk,
        )
        self._used += len(rows)

    def end_chunk(self, chunk: StagedChunk) -> None:
        """
        The current chunk is complete.

        :param chunk: what to record of it.
        """
        if self._parts:
            self._spill()
            self._commit(self._parts, [chunk])
            self._parts = []
        else:
            self._done.append(chunk)
        self._start = self._used

    def drop_chunk(self) -> None:
        """Forget what was read of the current chunk: it failed."""
        for part in self._parts:
            self._folder.remove(part.name)
        self._parts = []
        self._used = self._start

    def flush(self) -> None:
        """Write the complete chunks that are still in memory."""
        if self._done:
            files = [self._write(slice(0, self._start))] if self._start else []
            self._commit(files, self._done)
            self._done = []
        left = slice(self._start, self._used)
        kept = self._rows.take(left)
        for target, source in (
            (self._rows.key, kept.key),
            (self._rows.chunk, kept.chunk),
            (self._rows.sub_chunk, kept.sub_chunk),
        ):
            # The pieces may overlap: copy first.
            target[: len(kept)] = source.copy()
        self._start, self._used = 0, len(kept)

    def _make_room(self, wanted: int) -> None:
        if self._start:
            self.flush()
        if self._used + wanted > len(self._rows):
            self._spill()

    def _spill(self) -> None:
        if self._used > self._start:
            self._parts.append(self._write(slice(self._start, self._used)))
        self._used = self._start

    def _write(self, where: slice) -> StagedFile:
        file = write_file(self._folder, f"{new_name(self._group)}.parquet", self._rows.take(where))
        self.written += file.bytes
        return file

    def _commit(self, files: Sequence[StagedFile], chunks: Sequence[StagedChunk]) -> None:
        name = f"{new_name(self._group)}.json"
        manifest = Manifest(name, self._plan.token, self._group, layout(self._plan), tuple(chunks), tuple(files))
        self._folder.write_json(name, manifest.as_dict())


class Extractor:
    """
    Reads chunks from their workers; what fails is recorded, the rest goes on.

    :param plan: the plan.
    :param connects: how to connect to each worker.
    :param buffer: takes the rows.
    :param check: called often; raises when the work must stop (the claim was lost).
    """

    def __init__(
        self, plan: Plan, connects: Mapping[str, Connect], buffer: RunBuffer, check: Callable[[], None]
    ) -> None:
        self._plan, self._connects, self._buffer, self._check = plan, connects, buffer, check
        self._open: dict[str, Connection] = {}
        self._down: dict[str, str] = {}
        self.outcome = Outcome()

    def run(self, chunks: Sequence[PlannedChunk]) -> Outcome:
        """
        Read chunks and stage them.

        :param chunks: the chunks that are not staged yet.
        :returns: what became of them.
        :raises ClaimLostError: as ``check`` does.
        """
        progress = Progress(log.info, f"extract {len(chunks)} chunks", sum(c.rows for c in chunks))
        try:
            for number, chunk in enumerate(chunks, 1):
                self._one(chunk, progress, f"chunk {number} of {len(chunks)}")
            self._buffer.flush()
        finally:
            for connection in self._open.values():
                connection.close()
        self.outcome.bytes = self._buffer.written
        staged = f"{self.outcome.chunks} chunks staged"
        bad = len({f.chunk for f in self.outcome.failures})
        progress.finish(f"{staged}, {bad} failed" if bad else staged)
        return self.outcome

    def _one(self, chunk: PlannedChunk, progress: Progress, note: str) -> None:
        failures, transient = [], False
        for worker in chunk.workers:
            try:
                rows = self._read(chunk, worker, progress, note)
            except (ReindexError, MySQLdb.Error) as error:
                if isinstance(error, ReindexError) and not isinstance(error, DataError | TransientError):
                    raise
                self._buffer.drop_chunk()
                transient |= is_transient(error)
                message = detail(self._down.get(worker) or describe(error))
                failures.append(
                    Failure(table=self._plan.request.director_table, worker=worker, chunk=chunk.chunk, message=message)
                )
                log.warning("chunk %s of worker %s: %s", chunk.chunk, worker, message)
            else:
                self.outcome.chunks += 1
                self.outcome.rows += rows
                return
        self.outcome.failures += failures
        self.outcome.transient |= transient

    def _read(self, chunk: PlannedChunk, worker: str, progress: Progress, note: str) -> int:
        connection = self._connection(worker)
        total = Checksum()
        try:
            for rows in stream(connection, self._plan, chunk.chunk):
                self._check()
                self._buffer.add(rows)
                total += Checksum.of(rows)
                progress.add(len(rows), note)
        except MySQLdb.Error as error:
            if is_transient(error):
                self._open.pop(worker).close()
            raise
        self._buffer.end_chunk(StagedChunk(chunk.chunk, worker, chunk.fingerprints.get(worker, ""), total))
        return total.rows

    def _connection(self, worker: str) -> Connection:
        if worker in self._down:
            raise TransientError(self._down[worker])
        if worker not in self._open:
            connect = self._connects.get(worker)
            if connect is None:
                raise DataError(
                    f"no MySQL connection for worker '{worker}': add it to 'workers' in the qserv connection's extra"
                )
            try:
                self._open[worker] = prepare(connect())
            except MySQLdb.Error as error:
                # Asked once a task: each further chunk would wait for the same time-out.
                self._down[worker] = f"Failed to connect to the worker service: {describe(error)}"
                raise
        return self._open[worker]


def stream(connection: Connection, plan: Plan, chunk: int) -> Any:
    """
    Stream the keys and sub-chunks of one chunk table. Its chunk number comes from the table's name.

    :param connection: the worker.
    :param plan: names the table and its columns.
    :param chunk: the chunk's number.
    :yields: :class:`Rows` of at most :data:`FETCH_ROWS`.
    :raises DataError: a key or sub-chunk is NULL or does not fit into the index's column.
    """
    request = plan.request
    table = quote(request.database, f"{request.director_table}_{chunk}")
    columns = f"{quote(plan.key_column)}, {quote('subChunkId')}"
    cursor = connection.cursor(SSCursor)
    try:
        cursor.execute(f"SELECT {columns} FROM {table}", ())
        for name, kind, *_ in cursor.description:
            if kind not in INTEGER_FIELDS:
                raise DataError(f"column '{name}' of table '{request.director_table}_{chunk}' is not an integer column")
        while batch := cursor.fetchmany(FETCH_ROWS):
            yield as_rows(batch, chunk, plan.key_column, plan.key, plan.sub_chunk)
    finally:
        # Closing reads what is left of the result; on a broken connection there is nothing left to read.
        try:
            cursor.close()
        except MySQLdb.Error:
            log.debug("closing the cursor of chunk %s failed", chunk, exc_info=True)


def as_rows(
    batch: Sequence[tuple[Any, Any]], chunk: int, key_column: str, key: IntegerType, sub_chunk: IntegerType
) -> Rows:
    """
    Turn fetched tuples into columns, and refuse what the index cannot hold.

    :param batch: pairs of key and sub-chunk.
    :param chunk: the chunk they belong to.
    :param key_column: the key's name, for messages.
    :param key: the key's type.
    :param sub_chunk: the sub-chunk's type.
    :returns: the rows.
    :raises DataError: a NULL, or a value out of its column's range, with a sample.
    """
    try:
        if _wide(key) == _wide(sub_chunk):
            keys, subs = np.array(batch, dtype=_wide(key)).T
        else:
            columns = zip(*batch, strict=True)
            keys, subs = (np.array(next(columns), dtype=_wide(kind)) for kind in (key, sub_chunk))
        good = _within(keys, key) and _within(subs, sub_chunk)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(_complaint(batch, key_column, key, sub_chunk))
    return Rows(keys.astype(key.dtype), np.full(len(keys), chunk, np.int32), subs.astype(sub_chunk.dtype))


def _wide(kind: IntegerType) -> np.dtype[Any]:
    return np.dtype(np.uint64 if kind.high > np.iinfo(np.int64).max else np.int64)


def _within(values: np.ndarray[Any, Any], kind: IntegerType) -> bool:
    return int(values.min()) >= kind.low and int(values.max()) <= kind.high


def _complaint(batch: Sequence[tuple[Any, Any]], key_column: str, key: IntegerType, sub_chunk: IntegerType) -> str:
    for position, (column, kind) in enumerate(((key_column, key), ("subChunkId", sub_chunk))):
        values = [row[position] for row in batch]
        nulls = sum(value is None for value in values)
        if nulls:
            return f"column '{column}' is NULL in {nulls} row(s) of {len(batch)} read; an index key cannot be NULL"
        strange = [v for v in values if not isinstance(v, int) or not kind.low <= v <= kind.high]
        if strange:
            sample = ", ".join(repr(value) for value in strange[:5])
            return f"column '{column}' has {len(strange)} value(s) out of range for {kind.sql}: {sample}"
    raise AssertionError("a batch was refused in which nothing is wrong")


def missing_chunks(group: Sequence[PlannedChunk], staged: Sequence[Manifest]) -> list[PlannedChunk]:
    """
    The chunks of a mapped task that are not staged yet.

    :param group: the task's chunks.
    :param staged: the manifests that count.
    :returns: what is left to read.
    """
    there = {chunk.chunk for manifest in staged for chunk in manifest.chunks}
    return [chunk for chunk in group if chunk.chunk not in there]


def unaccounted(plan: Plan, staged: Sequence[Manifest]) -> list[int]:
    """
    The chunks of a plan that no manifest holds.

    :param plan: the plan.
    :param staged: the manifests that count.
    :returns: chunk numbers, ascending.
    """
    return sorted(chunk.chunk for group in plan.groups for chunk in missing_chunks(group, staged))
