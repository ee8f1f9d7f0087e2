"""Rows of whole chunks, collected in memory and written as sorted runs; reading goes on while a run is written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.runs import Manifest, StagedChunk, StagedFile, new_name, write_run
from airflow_reindex.director.mysql.types import Rows

#: Bytes that a row takes: in each of two buffers, and its place in the sorted order.
BYTES_PER_ROW = 2 * 20 + 8
#: The manifests' format: older ones lack the sums of products and the tables' states, and prove less.
FORMAT = "2"


def layout(plan: Plan) -> str:
    """The form of a run's rows, as a text to compare; only runs of one layout can be merged."""
    request = plan.request
    return "|".join(
        [
            FORMAT,
            request.database,
            request.director_table,
            plan.key_column,
            plan.key.dtype.name,
            plan.sub_chunk.dtype.name,
        ]
    )


class RunBuffer:
    """
    Collects rows of whole chunks and writes them as sorted runs; memory is bounded by ``capacity``.

    A larger chunk is written in parts, which count only when its last row was read. A thread sorts and writes one
    buffer while the other one is filled. A context manager, which waits for the thread at its end.

    :param group: the group whose chunks these are.
    :param capacity: rows in each of two buffers.
    """

    def __init__(self, folder: Folder, plan: Plan, group: int, capacity: int) -> None:
        self._folder, self._plan, self._group, self._capacity = folder, plan, group, max(1, capacity)
        self._rows, self._spare = self._empty(), self._empty()
        self._used = self._start = 0
        self._done: list[StagedChunk] = []
        self._parts: list[StagedFile] = []
        self._spilled = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="reindex-write")
        self._job: Future[None] | None = None
        self.written = 0

    def __enter__(self) -> RunBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()
        # After an error within a chunk no manifest will ever name these files.
        self._remove_parts()

    def add(self, rows: Rows) -> None:
        """Add some rows of the current chunk."""
        start = 0
        while start < len(rows):
            if self._used == self._capacity:
                self._make_room()
            piece = rows.take(slice(start, start + self._capacity - self._used))
            _copy(piece, self._rows, self._used)
            self._used += len(piece)
            start += len(piece)

    def end_chunk(self, chunk: StagedChunk) -> None:
        """Complete the current chunk, with what its manifest will say of it."""
        if self._spilled:
            self._make_room()
            self._wait()
            # Before the manifest: it may exist even if writing it seems to fail.
            parts, self._parts, self._spilled = self._parts, [], False
            self._commit(parts, [chunk])
        else:
            self._done.append(chunk)
            self._start = self._used

    def drop_chunk(self) -> None:
        """Discard the rows of the current chunk, which failed."""
        self._wait()
        self._remove_parts()
        self._spilled, self._used = False, self._start

    def flush(self) -> None:
        """Write the complete chunks that are still in memory."""
        if self._done:
            self._make_room()
        self._wait()

    def _remove_parts(self) -> None:
        parts, self._parts = self._parts, []
        for part in parts:
            self._folder.remove(part.name)

    def _empty(self) -> Rows:
        # Untouched pages cost nothing, so a small task stays small.
        plan, size = self._plan, self._capacity
        return Rows(np.empty(size, plan.key.dtype), np.empty(size, np.int32), np.empty(size, plan.sub_chunk.dtype))

    def _make_room(self) -> None:
        """Have the complete chunks written or, where there are none, what there is of the current one."""
        self._wait()
        if self._done:
            job = self._writer.submit(self._write_chunks, self._rows.take(slice(0, self._start)), self._done)
            left = self._rows.take(slice(self._start, self._used))
            _copy(left, self._spare, 0)
            self._used, self._done = len(left), []
        else:
            job = self._writer.submit(self._write_part, self._rows.take(slice(0, self._used)))
            self._used, self._spilled = 0, True
        self._job, self._start = job, 0
        self._rows, self._spare = self._spare, self._rows

    def _wait(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def _write_chunks(self, rows: Rows, chunks: Sequence[StagedChunk]) -> None:
        self._commit(self._write(rows), chunks)

    def _write_part(self, rows: Rows) -> None:
        self._parts += self._write(rows)

    def _write(self, rows: Rows) -> tuple[StagedFile, ...]:
        files = write_run(self._folder, new_name(self._group), rows, self._plan.group_rows)
        self.written += sum(file.bytes for file in files)
        return files

    def _commit(self, files: Sequence[StagedFile], chunks: Sequence[StagedChunk]) -> None:
        name = f"{new_name(self._group)}.json"
        manifest = Manifest(name, self._plan.token, self._group, layout(self._plan), tuple(chunks), tuple(files))
        self._folder.write_json(name, manifest.as_dict())


def _copy(rows: Rows, target: Rows, at: int) -> None:
    where = slice(at, at + len(rows))
    target.key[where], target.chunk[where], target.sub_chunk[where] = rows.key, rows.chunk, rows.sub_chunk
