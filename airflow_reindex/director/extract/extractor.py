"""Chunk tables to sorted runs: stream, check, sort and write the chunks of one mapped task."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import MySQLdb
import numpy as np

from airflow_reindex.core.failures import Code, DataError, Reason, ReindexError, TransientError, truncate_detail
from airflow_reindex.core.progress import Progress
from airflow_reindex.core.report import Failure
from airflow_reindex.director.coordination.throttle import Pace, Watch
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.model.inventory import TableInfo, count_rows, present_figures, table_info
from airflow_reindex.director.model.plan import Plan, PlannedChunk
from airflow_reindex.director.model.runs import Manifest, StagedChunk
from airflow_reindex.director.mysql.client import (
    Connect,
    Connection,
    connected,
    hang_up,
    is_transient,
    mysql_reason,
    snapshot,
)
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.integer_reader import IntegerQuery, IntegerReader
from airflow_reindex.director.mysql.tuples import as_rows
from airflow_reindex.director.mysql.types import Checksum, Rows

log = logging.getLogger(__name__)


@dataclass
class ExtractOutcome:
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
        # One connection at a time: a task that waits for a worker must not block another one.
        self._worker, self._reader = "", IntegerReader(lambda: self._connected(self._worker))
        self._down: dict[str, Reason] = {}
        self.outcome = ExtractOutcome()

    def run(self, chunks: Sequence[PlannedChunk]) -> ExtractOutcome:
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
            self._reader.close()
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
                    message=truncate_detail(reason.text),
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
        self._turn_to(worker)
        info, total = self._reader.complete(lambda: self._whole(chunk, progress, note), self._buffer.drop_chunk)
        seconds = round(time.monotonic() - begun, 4)
        self._buffer.end_chunk(StagedChunk(chunk.chunk, worker, info.fingerprint, total, seconds, info.state))
        return total.rows

    def _whole(self, chunk: PlannedChunk, progress: Progress, note: str) -> tuple[TableInfo, Checksum]:
        """Read all rows that the table counts; once more when the numbers differ, as it may just have changed."""
        found: list[tuple[int, int]] = []
        for _ in range(2):
            # Before its rows: a change after this may be missing from them.
            connection = self._reader.connection
            info = table_info(connection, self._plan.request, chunk.chunk) or TableInfo(0)
            if info.exact:
                total, counted = self._stream(chunk, progress, note), info.rows
            else:
                with snapshot(connection):
                    total = self._stream(chunk, progress, note)
                    counted = count_rows(connection, self._plan.request, chunk.chunk)
            if total.rows == counted:
                return info, total
            found.append((total.rows, counted))
            self._buffer.drop_chunk()
        raise incomplete(found)

    def _stream(self, chunk: PlannedChunk, progress: Progress, note: str) -> Checksum:
        total = Checksum()
        for rows in stream(self._reader, self._plan, chunk.chunk):
            self._watch.check()
            self._buffer.add(rows)
            total += Checksum.of(rows)
            progress.add(len(rows), note)
            self._pace.add(len(rows))
        return total

    def _turn_to(self, worker: str) -> None:
        """Read from this worker from now on."""
        if worker in self._down:
            raise TransientError(self._down[worker].text, code=self._down[worker].code)
        if worker not in self._connects:
            raise DataError(
                f"no MySQL connection for worker '{worker}': add it to 'workers' in the qserv connection's extra",
                code=Code.CONNECTION,
            )
        if worker != self._worker:
            self._reader.close()
            self._acquire_slot(worker)
            self._worker = worker

    def _connected(self, worker: str) -> Connection:
        try:
            connection = connected(self._connects[worker])
            try:
                present_figures(connection)
            except BaseException:
                hang_up(connection)
                raise
        except MySQLdb.Error as error:
            # Tried once per task: each further chunk would wait for the same timeout.
            reason = mysql_reason(error)
            code = Code.CONNECTION if reason.code is Code.OTHER else reason.code
            self._down[worker] = Reason(code, f"Failed to connect to the worker service: {reason.text}")
            raise
        return connection


def stream(reader: IntegerReader, plan: Plan, chunk: int) -> Iterator[Rows]:
    """
    Stream the keys and sub-chunks of one chunk table. The chunk number comes from the table's name.

    :raises DataError: when a key or sub-chunk is NULL or does not fit into the index's column.
    """
    name, key, sub_chunk = f"{plan.request.director_table}_{chunk}", plan.key, plan.sub_chunk
    columns = f"{quote(plan.key_column)}, {quote('subChunkId')}"
    query = IntegerQuery(
        f"SELECT {columns} FROM {quote(plan.request.database, name)}",  # noqa: S608 - names are quoted
        name,
        (key, sub_chunk),
        lambda keys, subs: Rows(keys, np.full(len(keys), chunk, np.int32), subs),
        lambda batch: as_rows(batch, chunk, plan.key_column, key, sub_chunk),
    )
    return reader.rows(query)


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
