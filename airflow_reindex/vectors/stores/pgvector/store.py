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

#: A switch waits so long for readers, and those who come after them wait for it. It is less than PostgreSQL's
#: deadlock_timeout (1 s), so that a reader that holds one view and wants the other is never the one that is aborted.
_SWITCH_WAIT_MS = 800
_SWITCH_PAUSE_SECONDS = 0.5
#: A block that keeps writers out may take so long between two statements; then the server lets them in.
_HOLD_LIMIT = "30min"


class PgVectorStore:
    """
    Collections in one database; see :class:`airflow_reindex.vectors.model.collection.Store`.

    :param connect: opens a connection, see :func:`airflow_reindex.vectors.stores.pgvector.connections.connector`.
    :param label: what messages call the database; no secrets.
    :param ef_search: HNSW: candidates that a search looks at, at least.
    :param build_memory: for the building of an index, at most; the server's own setting if that is more. With
        parallel workers it is shared memory: in a container, give it as much (``--shm-size``).
    :param build_workers: parallel workers that build an index; ``None``: the server's setting.
    :param switch_seconds: for how long a switch is tried again while readers hold the views.
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
        """The connections, once tables of our own that an earlier version made are as this one needs them."""
        if not self._upgraded:
            with self._connections.use() as connection:
                upgrade(connection)
            self._upgraded = True
        return self._connections

    @property
    def label(self) -> str:
        """What messages call it."""
        return self._connections.label

    def check(self) -> None:
        """
        Look whether the database answers and may be used as needed; changes nothing.

        :raises RequestError: something is missing, and what to do about it.
        :raises TransientError: it is away.
        """
        with self._connections.use() as connection:
            checks.check(connection, self.label)

    def prepare(self) -> None:
        """Make the schema and the tables of our own that are missing; several may do it at the same time."""
        with self._connections.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK_PREPARE)
            # IF NOT EXISTS asks for the privilege to create even where there is nothing to do.
            if not checks.exists(connection, "SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            if not checks.exists(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", SCHEMA):
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            for table in OWN_TABLES:
                connection.execute(table)
            upgrade(connection)

    def known(self) -> list[str]:
        """The ids of the collections that runs have created here."""
        with self._ready.use() as connection:
            return registry.known_collections(connection)

    def find(self, collection_id: str) -> CollectionInfo | None:
        """
        Look a collection up.

        :param collection_id: its id.
        :returns: what is known of it; ``None`` when there is none.
        """
        with self._ready.use() as connection:
            return registry.find_collection(connection, locate(connection, collection_id))

    def open(self, collection_id: str) -> PgVectorCollection:
        """
        Open a collection that is there.

        :param collection_id: its id.
        :raises RequestError: it is not there.
        """
        with self._ready.use() as connection:
            names = locate(connection, collection_id)
            info = registry.find_collection(connection, names)
        if info is None:
            raise RequestError(f"{self.label} has no collection '{collection_id}'.")
        return PgVectorCollection(self._connections, names, info, ef_search=self._ef_search, building=self._building)

    def check_info(self, info: CollectionInfo) -> None:
        """
        Refuse a collection that could not be indexed here.

        :param info: what it is made of.
        :raises RequestError: and what to do about it.
        """
        check_info(info)

    def create(self, token: str, info: CollectionInfo) -> None:
        """
        Create a destination without its ANN index, and note its model; fine when it is there.

        Ids are ordered as in the claim's source: key ranges must mean the same in both.

        :param token: the claim.
        :param info: what it is made of.
        :raises ConflictError: it is there, but is made of something else.
        """
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
                # Of one that somebody has dropped: rows that were never written would count as removed.
                connection.execute(sql.SQL("TRUNCATE {}").format(names.marks))
            if not checks.has_index_on(connection, SCHEMA, names.marks_name, "run"):
                connection.execute(names.failed_index())
            registry.note_collection(connection, names, info)

    def _refuse_other(self, seen: CollectionInfo, info: CollectionInfo) -> None:
        wanted = info if seen.embedding_model_id else replace(info, embedding_model_id="")
        # How the graph is built may differ: it is built later, and an index that is there stays as it is.
        if replace(seen, m=info.m, ef_construction=info.ef_construction) != wanted:
            raise ConflictError(
                f"{self.label} has a collection '{info.collection_id}' that is made of something else: model "
                f"'{seen.embedding_model_id}', {seen.dimensions} dimensions, metric {seen.metric}, instead of model "
                f"'{info.embedding_model_id}', {info.dimensions} dimensions, metric {info.metric}. Choose another id, "
                "or drop it."
            )

    def drop(self, collection_id: str) -> None:
        """
        Remove a collection with everything that is known of it.

        :param collection_id: its id.
        :raises ConflictError: an alias still follows it, or another's views or tables depend on it.
        :raises TransientError: readers hold it.
        """
        with self._ready.transaction() as connection:
            names = locate(connection, collection_id)
            connection.execute("SET LOCAL lock_timeout = '3s'")
            # Nobody points an alias here meanwhile.
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
        """All claims."""
        with self._ready.use() as connection:
            return registry.read_claims(connection)

    def take(self, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
        """
        Take the claim on a destination: look, judge and write as one step, alone.

        :param claim: the new claim.
        :param judge: is shown all claims; raises when one must be respected; returns the one that is replaced, if any.
        :returns: the claim that was replaced.
        """
        with self._ready.transaction() as connection:
            return registry.take_claim(connection, claim, judge)

    def touch(self, claim: Claim) -> bool:
        """
        Give a sign of life.

        :param claim: the claim.
        :returns: whether it is still there.
        """
        with self._ready.use() as connection:
            return registry.touch_claim(connection, claim)

    def release(self, claim: Claim) -> None:
        """
        Give a claim back; fine when it is another's by now.

        :param claim: the claim.
        """
        with self._ready.use() as connection:
            registry.delete_claim(connection, claim)

    def followers(self, collection_id: str) -> list[str]:
        """
        The aliases that point to a collection.

        :param collection_id: its id.
        """
        with self._ready.use() as connection:
            return aliases.read_followers(connection, locate(connection, collection_id))

    def pointer(self, alias: str) -> Pointer | None:
        """
        Where an alias points.

        :param alias: the readers' name.
        :returns: ``None`` when there is no such alias.
        """
        with self._ready.use() as connection:
            return aliases.read_pointer(connection, alias)

    def check_alias(self, alias: str) -> None:
        """
        Refuse a name that cannot be an alias here.

        :param alias: the readers' name.
        :raises RequestError: it is no name, or is taken by something else.
        """
        with self._ready.use() as connection:
            aliases.refuse_taken_alias(connection, alias)

    def repoint(self, pointer: Pointer, token: str | None) -> None:
        """
        Point an alias somewhere: both views and the registry change in one transaction.

        Whoever may read the views may still read them afterwards.

        :param pointer: what it shall be.
        :param token: the claim that fences it; ``None`` for a roll-back, which needs none.
        :raises ClaimLostError: the claim is another's; nothing has changed.
        :raises TransientError: readers held the views all the time.
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
        """
        Keep writers from a collection while the block runs; readers go on.

        :param collection_id: the collection.
        :param seconds: how long to wait for writers that are at it.
        :raises TransientError: they did not finish in time.
        """
        with self._connections.own() as connection, connection.transaction():
            names = locate(connection, collection_id)
            connection.execute(
                sql.SQL("SET LOCAL idle_in_transaction_session_timeout = {}").format(sql.Literal(_HOLD_LIMIT))
            )
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(max(1, round(seconds * 1000))))
            try:
                # Of objects alone, which every writer of an item writes: who waits for a second lock with the first in
                # hand meets writers that take them in the other order.
                connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names.objects))
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                raise TransientError(
                    f"collection '{collection_id}': writers did not finish within {seconds:g} s. Look for long "
                    "transactions in pg_stat_activity, pause the writers, or allow more time."
                ) from error
            yield

    def close(self) -> None:
        """Let go of connections."""
        self._connections.close()
