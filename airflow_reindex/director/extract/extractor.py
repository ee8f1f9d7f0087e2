"""Chunk tables to sorted runs: stream, check, sort and write the chunks of one mapped task."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import MySQLdb
import numpy as np
from MySQLdb.constants import CR, FIELD_TYPE
from MySQLdb.cursors import SSCursor

from airflow_reindex.core.failures import Code, DataError, Reason, ReindexError, TransientError, detail
from airflow_reindex.core.progress import Progress
from airflow_reindex.core.report import Failure
from airflow_reindex.director.coordination.throttle import Pace, Watch
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.model.inventory import TableInfo, count_rows, present_figures, table_info
from airflow_reindex.director.model.plan import Plan, PlannedChunk
from airflow_reindex.director.model.runs import Manifest, StagedChunk
from airflow_reindex.director.mysql.binary_protocol import UnsupportedResultError, Wire, usable
from airflow_reindex.director.mysql.client import (
    Connect,
    Connection,
    hang_up,
    is_transient,
    mysql_reason,
    prepare,
    snapshot,
)
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.tuples import as_rows, within
from airflow_reindex.director.mysql.types import Checksum, Rows

log = logging.getLogger(__name__)

#: The protocol's integer types: a DOUBLE would silently be cut to an integer.
INTEGER_FIELDS = frozenset({FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG})
#: Rows fetched from the driver at a time: Python objects live no longer than one such batch.
FETCH_ROWS = 50_000


@dataclass
class Outcome:
    """
    The outcome of a mapped extract task.

    :param chunks: chunks that this attempt has staged.
    :param rows: their rows.
    :param bytes: their size in the staging folder.
    :param failures: chunks that failed, with one failure per replica that was tried.
    :param transient: whether one of them may succeed on a retry.
    """

    chunks: int = 0
    rows: int = 0
    bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    transient: bool = False


@dataclass
class WorkerReader:
    """A worker that is being read; ``wire`` is ``None`` where its connection's socket cannot be read."""

    connection: Connection
    wire: Wire | None = None

    @classmethod
    def open(cls, connect: Connect, *, fast: bool = True) -> WorkerReader:
        """Connect to a server; with ``fast``, results are read from the socket where possible."""
        connection = _connected(connect)
        if fast and usable(connection):
            try:
                return cls(connection, Wire(connection))
            except (UnsupportedResultError, OSError):
                # Client library and server have negotiated a protocol that is not known here.
                hang_up(connection)
                connection = _connected(connect)
        return cls(connection)

    def close(self) -> None:
        """Close the connection."""
        if self.wire is not None:
            self.wire.close()
        hang_up(self.connection)


def _connected(connect: Connect) -> Connection:
    connection = connect()
    try:
        return prepare(connection)
    except BaseException:
        # Otherwise the connection would stay open as long as the traceback is alive.
        hang_up(connection)
        raise


class Extractor:
    """
    Reads chunks from their workers; failed chunks are recorded, and the others go on.

    :param acquire_slot: called with a worker's name before connecting to it; waits for a free slot.
    """

    def __init__(
        self,
        plan: Plan,
        connects: Mapping[str, Connect],
        buffer: RunBuffer,
        watch: Watch,
        acquire_slot: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan, self._connects, self._buffer = plan, connects, buffer
        self._watch, self._pace, self._acquire_slot = watch, Pace(watch), acquire_slot
        self._open: dict[str, WorkerReader] = {}
        self._down: dict[str, Reason] = {}
        self.outcome = Outcome()

    def run(self, chunks: Sequence[PlannedChunk]) -> Outcome:
        """
        Read chunks that are not staged yet, and stage them.

        :raises ClaimLostError: when another run has taken over.
        :raises SpaceError: when the staging folder's disk is too small.
        """
        progress = Progress(log.info, f"extract {len(chunks)} chunks", sum(c.rows for c in chunks))
        try:
            for number, chunk in enumerate(chunks, 1):
                self._one(chunk, progress, f"chunk {number} of {len(chunks)}")
            self._buffer.flush()
        finally:
            for source in self._open.values():
                source.close()
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
                reason = self._down.get(worker) or mysql_reason(error)
                failure = Failure(
                    table=self._plan.request.director_table,
                    worker=worker,
                    chunk=chunk.chunk,
                    message=detail(reason.text),
                    kind=reason.code,
                )
                failures.append(failure)
                log.warning("chunk %s of worker %s: %s", chunk.chunk, worker, failure.message)
            else:
                self.outcome.chunks += 1
                self.outcome.rows += rows
                return
        self.outcome.failures += failures
        self.outcome.transient |= transient

    def _read(self, chunk: PlannedChunk, worker: str, progress: Progress, note: str) -> int:
        begun = time.monotonic()
        try:
            info, total = self._whole(self._source(worker), chunk, progress, note)
        except UnsupportedResultError:
            # The driver can read it, too, and says what is wrong.
            self._buffer.drop_chunk()
            self._hang_up(worker)
            info, total = self._whole(self._source(worker, fast=False), chunk, progress, note)
            self._hang_up(worker)
        seconds = round(time.monotonic() - begun, 4)
        self._buffer.end_chunk(StagedChunk(chunk.chunk, worker, info.fingerprint, total, seconds, info.state))
        return total.rows

    def _whole(
        self, source: WorkerReader, chunk: PlannedChunk, progress: Progress, note: str
    ) -> tuple[TableInfo, Checksum]:
        """Read all rows that the table counts; once more when the numbers differ, as it may just have changed."""
        found: list[tuple[int, int]] = []
        for _ in range(2):
            # Before its rows: a change after this may be missing from them.
            info = table_info(source.connection, self._plan.request, chunk.chunk) or TableInfo(0)
            if info.exact:
                total, counted = self._stream(source, chunk, progress, note), info.rows
            else:
                with snapshot(source.connection):
                    total = self._stream(source, chunk, progress, note)
                    counted = count_rows(source.connection, self._plan.request, chunk.chunk)
            if total.rows == counted:
                return info, total
            found.append((total.rows, counted))
            self._buffer.drop_chunk()
        raise incomplete(found)

    def _stream(self, source: WorkerReader, chunk: PlannedChunk, progress: Progress, note: str) -> Checksum:
        total, whole = Checksum(), False
        try:
            for rows in stream(source, self._plan, chunk.chunk):
                self._watch.check()
                self._buffer.add(rows)
                total += Checksum.of(rows)
                progress.add(len(rows), note)
                self._pace.add(len(rows))
            whole = True
        finally:
            if not whole and (source.wire is not None or is_transient(sys.exception() or OSError())):
                # The rest of the answer would be taken for the next statement's.
                self._open = {name: other for name, other in self._open.items() if other is not source}
                source.close()
        return total

    def _hang_up(self, worker: str) -> None:
        source = self._open.pop(worker, None)
        if source is not None:
            source.close()

    def _source(self, worker: str, *, fast: bool = True) -> WorkerReader:
        if worker in self._down:
            raise TransientError(self._down[worker].text, code=self._down[worker].code)
        if worker not in self._open:
            connect = self._connects.get(worker)
            if connect is None:
                raise DataError(
                    f"no MySQL connection for worker '{worker}': add it to 'workers' in the qserv connection's extra",
                    code=Code.CONNECTION,
                )
            # One connection at a time: a task that waits for a worker must not block another one.
            for other in list(self._open):
                self._hang_up(other)
            self._acquire_slot(worker)
            try:
                source = self._open[worker] = WorkerReader.open(connect, fast=fast)
                present_figures(source.connection)
            except MySQLdb.Error as error:
                # Tried once per task: each further chunk would wait for the same timeout.
                reason = mysql_reason(error)
                code = Code.CONNECTION if reason.code is Code.OTHER else reason.code
                self._down[worker] = Reason(code, f"Failed to connect to the worker service: {reason.text}")
                raise
        return self._open[worker]


def stream(source: WorkerReader, plan: Plan, chunk: int) -> Iterator[Rows]:
    """
    Stream the keys and sub-chunks of one chunk table. The chunk number comes from the table's name.

    :raises DataError: when a key or sub-chunk is NULL or does not fit into the index's column.
    :raises UnsupportedResultError: for the same, where the rows come from the socket: the connection must be closed.
    """
    request = plan.request
    table = quote(request.database, f"{request.director_table}_{chunk}")
    statement = f"SELECT {quote(plan.key_column)}, {quote('subChunkId')} FROM {table}"  # noqa: S608 - names are quoted
    if source.wire is not None:
        # This statement is not formatted: a doubled percent sign of a quoted name must be a single one.
        return _from_wire(source.wire, statement.replace("%%", "%"), plan, chunk)
    return _from_driver(source.connection, statement, plan, chunk)


def _from_wire(wire: Wire, statement: str, plan: Plan, chunk: int) -> Iterator[Rows]:
    key, sub_chunk = plan.key, plan.sub_chunk
    try:
        for keys, subs in wire.stream(statement):
            if not (within(keys, key) and within(subs, sub_chunk)):
                raise UnsupportedResultError
            chunks = np.full(len(keys), chunk, np.int32)
            yield Rows(keys.astype(key.dtype, copy=False), chunks, subs.astype(sub_chunk.dtype, copy=False))
    except OSError as error:
        raise MySQLdb.OperationalError(CR.SERVER_LOST, f"Lost connection to server during query ({error})") from error


def _from_driver(connection: Connection, statement: str, plan: Plan, chunk: int) -> Iterator[Rows]:
    cursor = connection.cursor(SSCursor)
    try:
        cursor.execute(statement, ())
        for name, kind, *_ in cursor.description:
            if kind not in INTEGER_FIELDS:
                table = f"{plan.request.director_table}_{chunk}"
                raise DataError(f"column '{name}' of table '{table}' is not an integer column")
        while batch := cursor.fetchmany(FETCH_ROWS):
            yield as_rows(batch, chunk, plan.key_column, plan.key, plan.sub_chunk)
    finally:
        # Closing reads the rest of the result; on a broken connection there is none.
        try:
            cursor.close()
        except MySQLdb.Error:
            log.debug("closing the cursor of chunk %s failed", chunk, exc_info=True)


def incomplete(found: Sequence[tuple[int, int]]) -> ReindexError:
    """
    The error for a table of which fewer or more rows arrived than it counts.

    :param found: of each attempt, the number of rows that were read, and that the table counted.
    :returns: a transient error when the table changed in between.
    """
    read, counted = found[-1]
    text = f"{read:,} rows were read, the table has {counted:,}"
    if len(set(found)) > 1:
        return TransientError(f"{text}: it changes while it is read", code=Code.INCOMPLETE_READ)
    return DataError(
        f"{text}: it is damaged (CHECK TABLE tells, REPAIR TABLE mends it), or something between here and the server "
        "cuts results, such as a proxy's limit of rows",
        code=Code.INCOMPLETE_READ,
    )


def unaccounted(groups: Iterable[Sequence[PlannedChunk]], staged: Sequence[Manifest]) -> list[int]:
    """The numbers of a plan's chunks that no manifest holds, ascending."""
    there = {chunk.chunk for manifest in staged for chunk in manifest.chunks}
    return sorted(chunk.chunk for group in groups for chunk in group if chunk.chunk not in there)
