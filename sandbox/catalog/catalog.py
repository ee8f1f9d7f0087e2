"""Fill a sandbox with a made-up catalog."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from MySQLdb.connections import Connection

from sandbox.catalog import columns, replication
from sandbox.catalog.faults import Faults
from sandbox.catalog.layout import Layout, Truth, lay_out
from sandbox.catalog.spec import CatalogSpec
from sandbox.catalog.sphere import DUMMY_CHUNK
from sandbox.servers import grants
from sandbox.servers.cluster import Sandbox
from sandbox.servers.datadir import SandboxError
from sandbox.servers.identifiers import quote

__all__ = ["CatalogSpec", "CatalogSummary", "Faults", "Truth", "drop", "generate", "truth"]

Progress = Callable[[int, int], None]
_THREADS = 3


@dataclass(frozen=True)
class CatalogSummary:
    """A catalog that was generated.

    :param spec: what was asked for
    :param rows: rows of all chunk tables, counted once for all replicas
    :param overlap_rows: rows of all overlap tables, counted once for all replicas
    :param placement: chunk to its workers, as the replication system's tables have it, without the dummy chunk
    :param row_counts: chunk to the rows of its table
    :param faults: what is wrong, and where
    :param missing_on: chunk whose table is missing to the workers where it is missing
    :param seconds: time it took
    """

    spec: CatalogSpec
    rows: int
    overlap_rows: int
    placement: Mapping[int, tuple[str, ...]]
    row_counts: Mapping[int, int]
    faults: Faults
    missing_on: Mapping[int, tuple[str, ...]]
    seconds: float


def truth(spec: CatalogSpec) -> Truth:
    """The rows of a catalog, without any server.

    :param spec: the catalog
    :returns: keys, chunk ids and sub-chunk ids
    """
    return lay_out(spec).truth


def generate(sandbox: Sandbox, spec: CatalogSpec, progress: Progress | None = None) -> CatalogSummary:
    """Create a catalog on the workers and enter it in the replication system's tables.

    An older catalog of the same database is dropped first.

    :param sandbox: running servers
    :param spec: what the catalog should be like
    :param progress: called with the number of chunks done and the number of all chunks
    :returns: what was put where
    :raises ValueError: if the spec asks for more replicas than there are workers
    :raises SandboxError: if a server took the rows otherwise than they were given
    """
    began = time.monotonic()
    if spec.replicas > len(sandbox.workers):
        raise ValueError(f"{spec.replicas} replicas need as many workers, there are {len(sandbox.workers)}")
    layout = lay_out(spec)
    placement = _placement(layout, list(sandbox.workers))
    everywhere = spec.missing_everywhere
    missing_on = {chunk: placement[chunk] if everywhere else placement[chunk][:1] for chunk in layout.faults.missing}
    drop(sandbox, spec.database)
    _create_databases(sandbox, spec)
    _Loader(sandbox, layout, placement, missing_on, progress or (lambda _done, _total: None)).run()
    with contextlib.closing(sandbox.czar.connect()) as connection:
        replication.create_tables(connection, sandbox.workers)
        replication.register(connection, spec, {**placement, DUMMY_CHUNK: tuple(sandbox.workers)})
    return CatalogSummary(
        spec=spec,
        rows=spec.rows,
        overlap_rows=int(layout.overlap.source.size),
        placement=placement,
        row_counts=dict(zip(layout.chunk_ids.tolist(), layout.counts.tolist(), strict=True)),
        faults=layout.faults,
        missing_on=missing_on,
        seconds=time.monotonic() - began,
    )


def drop(sandbox: Sandbox, database: str) -> None:
    """Remove a catalog, if it exists, from the workers and from the replication system's tables.

    What has been built from it on the czar stays.

    :param sandbox: running servers
    :param database: the catalog's database
    """
    for server in sandbox.workers.values():
        with contextlib.closing(server.connect()) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {quote(database)}")
            grants.take(connection, grants.worker_grants(database))
    with contextlib.closing(sandbox.czar.connect()) as connection:
        replication.create_tables(connection, sandbox.workers)
        replication.forget(connection, database)


def _placement(layout: Layout, workers: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Chunks in turn to the workers, replicas to the next ones."""
    return {
        chunk: tuple(workers[(i + copy) % len(workers)] for copy in range(layout.spec.replicas))
        for i, chunk in enumerate(layout.chunk_ids.tolist())
    }


def _create_databases(sandbox: Sandbox, spec: CatalogSpec) -> None:
    for server in sandbox.workers.values():
        with contextlib.closing(server.connect()) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {quote(spec.database)}")
                for kind in ("", "FullOverlap"):
                    table = f"{spec.table}{kind}_{DUMMY_CHUNK}"
                    cursor.execute(columns.create_statement(spec, table, nullable_key=False, sub_chunk=True))
            grants.give(connection, grants.worker_grants(spec.database))


class _Loader:
    """Creates and fills the chunk tables, some chunks at a time."""

    def __init__(
        self,
        sandbox: Sandbox,
        layout: Layout,
        placement: Mapping[int, Sequence[str]],
        missing_on: Mapping[int, Sequence[str]],
        progress: Progress,
    ) -> None:
        self._sandbox = sandbox
        self._layout = layout
        self._placement = placement
        self._missing_on = missing_on
        self._progress = progress
        self._rows = columns.director_rows(layout)
        self._overlap = columns.overlap_rows(layout, self._rows)
        self._done = 0
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self) -> None:
        """Load all chunks, the large ones first, so that no thread is left with one of them in the end."""
        for i in np.argsort(-self._layout.counts, kind="stable").tolist():
            self._work.put(i)
        with (
            tempfile.TemporaryDirectory(prefix="load-", dir=self._sandbox.root) as folder,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            futures = [pool.submit(self._load_many, Path(folder) / f"{i}.txt") for i in range(_THREADS)]
            for future in futures:
                future.result()

    def _load_many(self, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            connections = {
                name: stack.enter_context(contextlib.closing(server.connect(local_infile=True)))
                for name, server in self._sandbox.workers.items()
            }
            while True:
                try:
                    i = self._work.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._load_chunk(i, path, connections)
                except BaseException:
                    self._empty_queue()
                    raise
                with self._lock:
                    self._done += 1
                    self._progress(self._done, self._layout.spec.chunks)

    def _empty_queue(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()

    def _load_chunk(self, i: int, path: Path, connections: Mapping[str, Connection]) -> None:
        layout = self._layout
        chunk = int(layout.chunk_ids[i])
        workers = self._placement[chunk]
        missing = self._missing_on.get(chunk, ())
        for kind, rows, starts in (
            ("", self._rows, layout.starts),
            ("FullOverlap", self._overlap, layout.overlap.starts),
        ):
            self._load_table(
                f"{layout.spec.table}{kind}_{chunk}",
                rows.slice(int(starts[i]), int(starts[i + 1] - starts[i])),
                path,
                [connections[worker] for worker in workers if kind or worker not in missing],
                nullable_key=not kind and chunk in layout.faults.null_keys,
                sub_chunk=bool(kind) or chunk not in layout.faults.no_sub_chunk,
            )

    def _load_table(
        self,
        table: str,
        rows: pa.Table,
        path: Path,
        connections: Sequence[Connection],
        *,
        nullable_key: bool,
        sub_chunk: bool,
    ) -> None:
        spec = self._layout.spec
        if rows.num_rows and connections:
            columns.write_text(rows, path, key_column=spec.key_column, sub_chunk=sub_chunk)
        for connection in connections:
            with connection.cursor() as cursor:
                cursor.execute(columns.create_statement(spec, table, nullable_key=nullable_key, sub_chunk=sub_chunk))
                if not rows.num_rows:
                    continue
                target = f"{quote(spec.database)}.{quote(table)}"
                statement = f"LOAD DATA LOCAL INFILE %s INTO TABLE {target} {columns.LOAD_OPTIONS}"
                loaded = cursor.execute(statement, (str(path),))
                if loaded != rows.num_rows or connection.warning_count():
                    raise SandboxError(f"{loaded} of {rows.num_rows} rows went into {table}, with warnings")
