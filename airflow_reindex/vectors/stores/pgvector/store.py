"""PostgreSQL with pgvector as a store of collections."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from psycopg import sql

from airflow_reindex.core.claims import Claim
from airflow_reindex.core.failures import ConflictError, RequestError, TransientError
from airflow_reindex.vectors.model.collection import CollectionInfo
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.pgvector import aliases, checks, registry
from airflow_reindex.vectors.stores.pgvector.collection import PgVectorCollection
from airflow_reindex.vectors.stores.pgvector.connections import Connect, Connections
from airflow_reindex.vectors.stores.pgvector.indexing import Building
from airflow_reindex.vectors.stores.pgvector.schema import (
    ALIASES,
    COLLECTIONS,
    LOCK_PREPARE,
    OWN_TABLES,
    SCHEMA,
    Names,
    check_info,
    locate,
)
from airflow_reindex.vectors.stores.pgvector.upgrade import upgrade

log = logging.getLogger(__name__)

#: Longest wait of a switch for readers, for which later readers wait as well. It is below PostgreSQL's deadlock_timeout
#: (1 s), so that a reader that holds one view and wants the other is never the one aborted.
_SWITCH_WAIT_MS = 800
_SWITCH_PAUSE_SECONDS = 0.5
#: Longest pause between two statements while writers are held; then the server lets them in.
_HOLD_LIMIT = "30min"


class PgVectorStore:
    """
    Collections in one database; see :class:`airflow_reindex.vectors.model.store.Store`.

    :param connect: see :func:`airflow_reindex.vectors.stores.pgvector.connections.connector`.
    :param label: name of the database in messages; without secrets.
    :param ef_search: HNSW: candidates that a search considers, at least.
    :param build_memory: most memory of an index build; the server's own setting if that is more. With parallel workers
        it is shared memory: a container needs as much (``--shm-size``).
    :param build_workers: parallel workers of an index build; ``None``: the server's setting.
    :param switch_seconds: how long a switch is retried while readers hold the views.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        label: str,
        ef_search: int = 100,
        build_memory: str = "1GB",
        build_workers: int | None = None,
        switch_seconds: float = 60.0,
    ) -> None:
        self._connections = Connections(connect, label)
        self._ef_search = ef_search
        self._building = Building(memory=build_memory, workers=build_workers)
        self._switch_seconds = switch_seconds
        self._upgraded = False

    @property
    def _ready(self) -> Connections:
        """Return the connections, after upgrading own tables made by an earlier version."""
        if not self._upgraded:
            with self._connections.use() as connection:
                upgrade(connection)
            self._upgraded = True
        return self._connections

    @property
    def label(self) -> str:
        return self._connections.label

    def check(self) -> None:
        with self._connections.use() as connection:
            checks.check(connection, self.label)

    def prepare(self) -> None:
        """Create schema, extension and own tables; may run several times concurrently."""
        with self._connections.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK_PREPARE)
            # IF NOT EXISTS requires the privilege to create even where there is nothing to do.
            if not checks.exists(connection, "SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            if not checks.exists(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", SCHEMA):
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            for table in OWN_TABLES:
                connection.execute(table)
            upgrade(connection)

    def list_collections(self) -> list[str]:
        with self._ready.use() as connection:
            return registry.list_collections(connection)

    def find(self, collection_id: str) -> CollectionInfo | None:
        with self._ready.use() as connection:
            return registry.find_collection(connection, locate(connection, collection_id))

    def open(self, collection_id: str) -> PgVectorCollection:
        with self._ready.use() as connection:
            names = locate(connection, collection_id)
            info = registry.find_collection(connection, names)
        if info is None:
            raise RequestError(f"{self.label} has no collection '{collection_id}'.")
        return PgVectorCollection(self._connections, names, info, ef_search=self._ef_search, building=self._building)

    def check_info(self, info: CollectionInfo) -> None:
        check_info(info)

    def create(self, token: str, info: CollectionInfo) -> None:
        """Create the tables with the ids' collation of the claim's source, so that key ranges mean the same in both."""
        check_info(info)
        with self._ready.transaction() as connection:
            registry.fence(connection, token)
            names = locate(connection, info.collection_id)
            seen = registry.find_collection(connection, names)
            if seen is not None:
                self._refuse_other(seen, info)
            for statement in names.create(info.dimensions, checks.collation_of_source(connection, token)):
                connection.execute(statement)
            if seen is None:
                for statement in names.early_indexes():
                    connection.execute(statement)
                # Marks of a collection that was dropped by hand: rows that were never written would count as removed.
                connection.execute(sql.SQL("TRUNCATE {}").format(names.marks))
            if not checks.has_index_on(connection, SCHEMA, names.marks_name, "run"):
                connection.execute(names.failed_index())
            registry.note_collection(connection, names, info)

    def _refuse_other(self, seen: CollectionInfo, info: CollectionInfo) -> None:
        wanted = info if seen.embedding_model_id else replace(info, embedding_model_id="")
        # Graph parameters may differ: the graph is built later, and an existing index stays as it is.
        if replace(seen, m=info.m, ef_construction=info.ef_construction) != wanted:
            raise ConflictError(
                f"{self.label} has a collection '{info.collection_id}' that is made of something else: model "
                f"'{seen.embedding_model_id}', {seen.dimensions} dimensions, metric {seen.metric}, instead of model "
                f"'{info.embedding_model_id}', {info.dimensions} dimensions, metric {info.metric}. Choose another id, "
                "or drop it."
            )

    def drop(self, collection_id: str) -> None:
        with self._ready.transaction() as connection:
            names = locate(connection, collection_id)
            connection.execute("SET LOCAL lock_timeout = '3s'")
            # Keeps others from pointing an alias here meanwhile.
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(ALIASES))
            if followers := aliases.read_followers(connection, names):
                raise ConflictError(f"the alias '{followers[0]}' points to '{collection_id}'; it cannot be dropped.")
            try:
                for table in (names.parts, names.objects, names.marks):
                    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
            except psycopg.errors.DependentObjectsStillExist as error:
                raise ConflictError(
                    f"'{collection_id}' cannot be dropped: {error.diag.message_detail or error}. Remove what depends "
                    "on it first."
                ) from error
            statement = sql.SQL("DELETE FROM {} WHERE schema_name = %s AND collection_id = %s").format(COLLECTIONS)
            connection.execute(statement, (names.schema, names.base))

    def claims(self) -> list[Claim]:
        with self._ready.use() as connection:
            return registry.read_claims(connection)

    def take(self, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
        with self._ready.transaction() as connection:
            return registry.take_claim(connection, claim, judge)

    def touch(self, claim: Claim) -> bool:
        with self._ready.use() as connection:
            return registry.touch_claim(connection, claim)

    def release(self, claim: Claim) -> None:
        with self._ready.use() as connection:
            registry.delete_claim(connection, claim)

    def followers(self, collection_id: str) -> list[str]:
        with self._ready.use() as connection:
            return aliases.read_followers(connection, locate(connection, collection_id))

    def pointer(self, alias: str) -> Pointer | None:
        with self._ready.use() as connection:
            return aliases.read_pointer(connection, alias)

    def check_alias(self, alias: str) -> None:
        with self._ready.use() as connection:
            aliases.refuse_taken_alias(connection, alias)

    def repoint(self, pointer: Pointer, token: str | None) -> None:
        """
        Change both views and the registry in one transaction; privileges on the views stay.

        :raises TransientError: readers held the views during all attempts.
        """
        deadline = time.monotonic() + self._switch_seconds
        while True:
            try:
                self._repoint(pointer, token)
                return
            except TransientError as error:
                if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                    raise
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"alias '{pointer.alias}': readers held its views for {self._switch_seconds:g} s, so nothing "
                        "was switched. End long queries and transactions that read it, then try again."
                    ) from error
                log.info("alias '%s': readers hold its views; the switch is tried again", pointer.alias)
            time.sleep(_SWITCH_PAUSE_SECONDS)

    def _repoint(self, pointer: Pointer, token: str | None) -> None:
        with self._ready.transaction() as connection:
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_SWITCH_WAIT_MS))
            if token is not None:
                registry.fence(connection, token)
            aliases.refuse_taken_alias(connection, pointer.alias)
            try:
                aliases.point(connection, pointer)
            except psycopg.errors.InvalidTableDefinition as error:
                raise ConflictError(
                    f"alias '{pointer.alias}': the columns of '{pointer.collection_id}' have other types than its "
                    f"views have ({error.diag.message_primary}). Drop the views "
                    f"'{Names(pointer.alias).objects_name}' and '{Names(pointer.alias).parts_name}' once, grant them "
                    "anew after the switch."
                ) from error

    @contextmanager
    def hold_writers(self, collection_id: str, seconds: float) -> Iterator[None]:
        """Lock the table of objects against writers while the block runs."""
        with self._connections.own() as connection, connection.transaction():
            names = locate(connection, collection_id)
            connection.execute(
                sql.SQL("SET LOCAL idle_in_transaction_session_timeout = {}").format(sql.Literal(_HOLD_LIMIT))
            )
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(max(1, round(seconds * 1000))))
            try:
                # The table of objects alone, which every writer of an item writes: waiting for a second lock while
                # holding the first would deadlock with writers that take them in the other order.
                connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names.objects))
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                raise TransientError(
                    f"collection '{collection_id}': writers did not finish within {seconds:g} s. Look for long "
                    "transactions in pg_stat_activity, pause the writers, or allow more time."
                ) from error
            yield

    def close(self) -> None:
        self._connections.close()
