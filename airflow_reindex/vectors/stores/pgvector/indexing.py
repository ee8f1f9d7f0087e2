"""Build of the ANN index: after loading, in parallel, with memory for the whole graph where allowed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from airflow_reindex.core.failures import ConflictError, ReindexError
from airflow_reindex.vectors.model.collection import CollectionInfo, Metric
from airflow_reindex.vectors.stores.pgvector import aliases, registry
from airflow_reindex.vectors.stores.pgvector.checks import exists, has_index_on
from airflow_reindex.vectors.stores.pgvector.connections import Connections
from airflow_reindex.vectors.stores.pgvector.schema import LOCK_BUILD, OPCLASSES, Names

Connection = psycopg.Connection[Any]

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 10.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Building:
    """
    Settings of index builds.

    :param memory: most memory, in PostgreSQL's notation; the server's own setting if that is more.
    :param workers: parallel workers; ``None``: the server's setting.
    """

    memory: str = "1GB"
    workers: int | None = None


def is_built(connection: Connection, names: Names, metric: Metric) -> bool:
    """Whether the ANN index exists and is usable."""
    return any(
        usable and opclass == OPCLASSES[metric] for _, usable, opclass, _ in registry.ann_indexes(connection, names)
    )


def build(connections: Connections, names: Names, info: CollectionInfo, building: Building, token: str) -> None:
    """
    Build the indexes that are missing.

    The claim is checked but not held: an index can do no harm, and a takeover should not have to wait for it.
    """
    with connections.own() as connection:
        with connection.transaction():
            registry.fence(connection, token)
        _wait_for_other_builds(connection, names)
        if is_built(connection, names, info.metric) and not _missing(connection, names):
            return
        live = bool(aliases.read_followers(connection, names))
        connection.execute(sql.SQL("ANALYZE {}, {}").format(names.objects, names.parts))
        _prepare(connection, names, info, building)
        for statement in _missing(connection, names):
            connection.execute(statement)
        _remove_orphans(connection, names)
        if not is_built(connection, names, info.metric):
            with _progress(connections, connection.info.backend_pid, info.collection_id):
                _create(connection, names, info, live=live)
        with connection.transaction():
            registry.fence(connection, token)


def _wait_for_other_builds(connection: Connection, names: Names) -> None:
    """Wait for a running build: it may be a killed task's, and its result counts."""
    statement = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
    # Polled instead of waiting for the lock, as CREATE INDEX CONCURRENTLY waits in turn for all running statements.
    while connection.execute(statement, (LOCK_BUILD, names.objects_path)).fetchone() != (True,):
        log.info("collection '%s': another build of the index is going on; waiting for its end", names.base)
        time.sleep(_POLL_SECONDS)


def _missing(connection: Connection, names: Names) -> list[sql.Composed]:
    missing = [
        statement
        for column, statement in names.late_indexes().items()
        if not has_index_on(connection, names.schema, names.objects_name, column)
    ]
    tied = "SELECT 1 FROM pg_constraint WHERE contype = 'f' AND conrelid = to_regclass(%s)"
    return missing if exists(connection, tied, names.parts_path) else [*missing, names.foreign_key()]


def _prepare(connection: Connection, names: Names, info: CollectionInfo, building: Building) -> None:
    row = connection.execute(
        "SELECT greatest(reltuples, 0)::float8, pg_size_bytes(%s), "
        "pg_size_bytes(current_setting('maintenance_work_mem')) FROM pg_class WHERE oid = to_regclass(%s)",
        (building.memory, names.parts_path),
    ).fetchone()
    assert row is not None  # noqa: S101 - for the type checker
    rows, most, present = row
    # The vector, its neighbours on all levels, and pgvector's data per node; plus a quarter.
    graph = 1.25 * rows * (4 * info.dimensions + 2.2 * info.m * 16 + 256)
    memory = max(present, min(most, graph))
    connection.execute(sql.SQL("SET maintenance_work_mem = {}").format(sql.Literal(f"{int(memory / 1024)}kB")))
    if building.workers is not None:
        connection.execute(sql.SQL("SET max_parallel_maintenance_workers = {}").format(building.workers))
    if graph > memory:
        log.warning(
            "collection '%s': the graph of %.0f vectors takes about %.1f GB, but only %.1f GB may be used; the end of "
            "the build will be slow. Allow more with index_build_memory.",
            info.collection_id,
            rows,
            graph / 2**30,
            memory / 2**30,
        )
    connection.execute("SET statement_timeout = 0")
    # Lets the server detect that this process was killed. Not supported on all systems.
    with suppress(psycopg.Error):
        connection.execute("SET client_connection_check_interval = '5s'")


def _remove_orphans(connection: Connection, names: Names) -> None:
    for name, usable, _, _ in registry.ann_indexes(connection, names):
        if not usable:
            log.info("dropping %s, which an earlier build has left unfinished", name)
            connection.execute(sql.SQL("DROP INDEX IF EXISTS ") + sql.SQL(name))


def _create(connection: Connection, names: Names, info: CollectionInfo, *, live: bool) -> None:
    statement = sql.SQL(
        "CREATE INDEX {concurrently} {index} ON {parts} USING hnsw (vector {opclass}) "
        "WITH (m = {m}, ef_construction = {ef_construction})"
    ).format(
        # Writers of a collection that readers see must not wait for the build.
        concurrently=sql.SQL("CONCURRENTLY" if live else ""),
        index=sql.Identifier(names.index_name),
        parts=names.parts,
        opclass=sql.Identifier(OPCLASSES[info.metric]),
        m=sql.Literal(info.m),
        ef_construction=sql.Literal(info.ef_construction),
    )
    try:
        try:
            connection.execute(statement)
        except psycopg.errors.DiskFull as error:
            if "shared memory" not in str(error):
                raise
            log.warning(
                "the server's shared memory is too small to build the index in parallel (%s); it is built by one "
                "process. In a container, raise --shm-size.",
                error,
            )
            connection.execute("SET max_parallel_maintenance_workers = 0")
            _remove_orphans(connection, names)
            connection.execute(statement)
    except psycopg.errors.DuplicateTable as error:
        if not is_built(connection, names, info.metric):
            raise ConflictError(
                f"something else has the name of the index, '{names.index_name}': rename or drop it."
            ) from error


@contextmanager
def _progress(connections: Connections, pid: int, collection_id: str) -> Iterator[None]:
    """Log the build's progress while the block runs."""
    done, started = threading.Event(), time.monotonic()

    def watch() -> None:
        while not done.wait(_PROGRESS_SECONDS):
            # Progress is for people only: a server too busy for it must not fail the build.
            with suppress(ReindexError):
                for phase, blocks, all_blocks, tuples in connections.rows(
                    "SELECT phase, blocks_done, blocks_total, tuples_done FROM pg_stat_progress_create_index "
                    "WHERE pid = %s",
                    (pid,),
                ):
                    log.info("%s", _sentence(collection_id, phase, blocks, all_blocks, tuples, started))

    thread = threading.Thread(target=watch, name="reindex-index-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    log.info("collection '%s': the ANN index is built, %.0f s", collection_id, time.monotonic() - started)


def _sentence(collection_id: str, phase: str, blocks: int, all_blocks: int, tuples: int, started: float) -> str:
    text = f"collection '{collection_id}': building the ANN index, {phase}"
    if not all_blocks:
        return f"{text}, {tuples} vectors"
    share, spent = blocks / all_blocks, time.monotonic() - started
    text += f", {blocks}/{all_blocks} blocks, {100 * share:.0f} %, {tuples} vectors"
    return f"{text}, about {spent / share - spent:.0f} s left" if share > 0.05 else text
