"""One collection: two tables in EmbeddingStudio's layout, and marks beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from psycopg import sql

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import (
    CollectionInfo,
    DestState,
    Embedded,
    Hit,
    IntegrityErrors,
    Item,
    SyncState,
    Twins,
    Vectors,
)
from airflow_reindex.vectors.stores.pgvector import indexing, registry, searching, writing
from airflow_reindex.vectors.stores.pgvector.connections import Connections
from airflow_reindex.vectors.stores.pgvector.schema import SCHEMA, Names
from airflow_reindex.vectors.stores.pgvector.twins import find_twins
from airflow_reindex.vectors.stores.pgvector.writing import VERSION

_MOST_LISTED = 100
_NO_MARKS = (
    "(SELECT ''::varchar AS object_id, ''::bytea AS version, ''::bytea AS recipe, '' AS content, '' AS stage, "
    "'' AS detail, '' AS run WHERE false)"
)


class PgVectorCollection:
    """
    A collection that exists; see :class:`airflow_reindex.vectors.model.collection.Collection`.

    :param ef_search: HNSW: candidates that a search considers, at least.
    """

    def __init__(
        self,
        connections: Connections,
        names: Names,
        info: CollectionInfo,
        *,
        ef_search: int,
        building: indexing.Building,
    ) -> None:
        self._connections, self._names, self._info = connections, names, info
        self._ef_search, self._building = ef_search, building

    @property
    def info(self) -> CollectionInfo:
        return self._info

    def count(self) -> int:
        return self._count(sql.SQL("original_id IS NULL"))

    def count_user_objects(self) -> int:
        return self._count(sql.SQL("original_id IS NOT NULL"))

    def _count(self, condition: sql.SQL) -> int:
        statement = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(self._names.objects, condition)
        return int(self._connections.rows(statement)[0][0])

    def keys(self, batch: int) -> Iterator[list[str]]:
        """
        Yield ids in the order of the primary key, however much is written meanwhile.

        Each list is a separate statement that continues after the last key: no key is seen twice, none that exists all
        the time is missed, and no transaction stays open.
        """
        last: str | None = None
        while True:
            within, values = writing.key_range("object_id", last, None)
            statement = sql.SQL(
                "SELECT object_id FROM {} WHERE original_id IS NULL AND {} ORDER BY object_id LIMIT %s"
            ).format(self._names.objects, within)
            with self._connections.transaction() as connection:
                # Without statistics the planner tends to sort the whole table for each list.
                connection.execute("SET LOCAL enable_sort = off")
                rows = connection.execute(statement, [*values, batch]).fetchall()
            keys = [key for (key,) in rows]
            if keys:
                yield keys
                last = keys[-1]
            if len(keys) < batch:
                return

    def versions(self, after: str | None, until: str | None, since: str | None = None) -> dict[str, bytes]:
        """Return versions; rows that no transaction since the watermark can have written are omitted."""
        within, bounds = writing.key_range("o.object_id", after, until)
        values: list[Any] = [*bounds]
        recent = sql.SQL("true")
        if since is not None:
            # Transaction ids wrap around: for a watermark a thousand million transactions old, all rows are returned.
            recent = sql.SQL(
                "(age(o.xmin) <= age(%s::xid8::xid) OR "
                "pg_snapshot_xmax(pg_current_snapshot())::text::numeric - %s::numeric > 1000000000)"
            )
            values += [since, since]
        statement = sql.SQL("SELECT o.object_id, {} FROM {} o WHERE o.original_id IS NULL AND {} AND {}").format(
            VERSION, self._names.objects, within, recent
        )
        return dict(self._connections.rows(statement, values))

    def watermark(self) -> str:
        """The snapshot xmin: the oldest running transaction. What it and all later ones write is newer."""
        return str(self._connections.rows("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")[0][0])

    def items(self, keys: Sequence[str]) -> list[Item]:
        statement = sql.SQL(
            "SELECT o.object_id, o.payload::text, o.storage_meta::text, {}, o.user_id, o.session_id FROM {} o "
            "WHERE o.original_id IS NULL AND o.object_id = ANY(%s::varchar[])"
        ).format(VERSION, self._names.objects)
        return [Item(*row) for row in self._connections.rows(statement, (list(keys),))]

    def missing_keys(self, keys: Sequence[str]) -> list[str]:
        statement = sql.SQL(
            "SELECT k.key FROM unnest(%s::varchar[]) WITH ORDINALITY k (key, number) LEFT JOIN {} o "
            "ON o.object_id = k.key AND o.original_id IS NULL WHERE o.object_id IS NULL ORDER BY k.number"
        ).format(self._names.objects)
        return [key for (key,) in self._connections.rows(statement, (list(keys),))]

    def states(self, after: str | None, until: str | None, keys: Sequence[str] | None = None) -> dict[str, DestState]:
        """Read rows and marks in one snapshot."""
        rows_within, rows_values = writing.key_range("o.object_id", after, until)
        marks_within, marks_values = writing.key_range("object_id", after, until)
        if keys is not None:
            rows_within = sql.SQL("{} AND o.object_id = ANY(%s::varchar[])").format(rows_within)
            marks_within = sql.SQL("{} AND object_id = ANY(%s::varchar[])").format(marks_within)
            rows_values, marks_values = [*rows_values, list(keys)], [*marks_values, list(keys)]
        statement = sql.SQL(
            "SELECT object_id, r.row_version, m.version, m.recipe, m.content, m.stage, m.detail, m.run FROM "
            "(SELECT o.object_id, {} AS row_version FROM {} o WHERE o.original_id IS NULL AND {}) r FULL JOIN "
            "(SELECT * FROM {} marks WHERE {}) m USING (object_id)"
        ).format(VERSION, self._names.objects, rows_within, self._marks(), marks_within)
        return {
            key: DestState(row=row, sync=None if sync[0] is None else SyncState(*sync))
            for key, row, *sync in self._connections.rows(statement, [*rows_values, *marks_values])
        }

    def _marks(self) -> sql.Composable:
        """The table of marks; an empty one for a collection made by other software."""
        there = "SELECT to_regclass(quote_ident(%s) || '.' || quote_ident(%s)) IS NOT NULL"
        if self._connections.rows(there, (SCHEMA, self._names.marks_name))[0][0]:
            return self._names.marks
        return sql.SQL(_NO_MARKS)

    def put(self, token: str, batch: Sequence[Embedded], *, only_unchanged: bool = False) -> list[str]:
        names, ids = self._names, [embedded.item.object_id for embedded in batch]
        if not ids:
            return []
        with self._connections.transaction() as connection:
            registry.fence(connection, token)
            unchanged, removed = None, set[str]()
            if only_unchanged:
                rows = writing.sort_rows(connection, names, ids)
                unchanged, removed = rows.unchanged, rows.removed
            tried = [embedded for embedded in batch if embedded.item.object_id not in removed]
            written = writing.upsert_objects(connection, names, tried, unchanged)
            left = [key for key in ids if key not in written]
            if left and (copies := writing.find_copies(connection, names, left)):
                raise DataError(f"object '{copies[0]}': a user's copy of another object has this id.")
            landed = [embedded for embedded in tried if embedded.item.object_id in written]
            replaced = [key for key, was_there in written.items() if was_there]
            if replaced:
                writing.delete_parts(connection, names, replaced)
            if landed:
                writing.copy_parts(connection, names, landed, self._info.dimensions)
                writing.upsert_marks(connection, names, {one.item.object_id: one.sync for one in landed})
        return left

    def fail(
        self, token: str, failed: Mapping[str, SyncState], *, keep_rows: bool = False, only_unchanged: bool = False
    ) -> list[str]:
        if not failed:
            return []
        with self._connections.transaction() as connection:
            registry.fence(connection, token)
            left = set[str]()
            if only_unchanged:
                left = writing.sort_rows(connection, self._names, list(failed)).foreign
            mine = {key: mark for key, mark in failed.items() if key not in left}
            if not keep_rows:
                writing.delete_objects(connection, self._names, list(mine), copies=False)
            writing.upsert_marks(connection, self._names, mine)
        return [key for key in failed if key in left]

    def delete(self, token: str, keys: Sequence[str], *, only_unchanged: bool = False) -> list[str]:
        if not keys:
            return []
        with self._connections.transaction() as connection:
            registry.fence(connection, token)
            left = set[str]()
            if only_unchanged:
                # A mark without a row protects nothing.
                left = writing.sort_rows(connection, self._names, keys).written
            mine = [key for key in keys if key not in left]
            writing.delete_objects(connection, self._names, mine, copies=True)
            statement = sql.SQL("DELETE FROM {} WHERE object_id = ANY(%s::varchar[])").format(self._names.marks)
            connection.execute(statement, (mine,))
        return [key for key in keys if key in left]

    def count_failed(self, plan_token: str) -> int:
        statement = sql.SQL("SELECT count(*) FROM {} marks WHERE run = %s AND stage <> ''").format(self._marks())
        return int(self._connections.rows(statement, (plan_token,))[0][0])

    def integrity_errors(self, after: str | None, until: str | None) -> IntegrityErrors:
        objects_within, values = writing.key_range("o.object_id", after, until)
        parts_within, _ = writing.key_range("p.object_id", after, until)
        names = {
            "objects": self._names.objects,
            "parts": self._names.parts,
            "objects_within": objects_within,
            "parts_within": parts_within,
        }
        incomplete = sql.SQL(
            "SELECT o.object_id FROM {objects} o LEFT JOIN (SELECT p.object_id, "
            "bool_or(p.is_average IS TRUE) AS average, bool_or(p.is_average IS NOT TRUE) AS part "
            "FROM {parts} p WHERE p.vector IS NOT NULL AND {parts_within} GROUP BY p.object_id) v USING (object_id) "
            "WHERE o.original_id IS NULL AND {objects_within} AND (v.average AND v.part) IS NOT TRUE "
            "ORDER BY o.object_id LIMIT {limit}"
        ).format(**names, limit=_MOST_LISTED)
        orphans = sql.SQL(
            "SELECT count(*) FROM {parts} p WHERE {parts_within} "
            "AND NOT EXISTS (SELECT FROM {objects} o WHERE o.object_id = p.object_id)"
        ).format(**names)
        found = self._connections.rows(incomplete, [*values, *values])
        return IntegrityErrors(
            incomplete=tuple(key for (key,) in found), orphans=int(self._connections.rows(orphans, values)[0][0])
        )

    def twins(self, size: int) -> Twins:
        with self._connections.use() as connection:
            return find_twins(connection, self._names, size)

    def has_index(self) -> bool:
        with self._connections.use() as connection:
            return indexing.is_built(connection, self._names, self._info.metric)

    def build_index(self, token: str) -> None:
        """Build the ANN index, and the indexes that only readers need; those that exist are kept."""
        indexing.build(self._connections, self._names, self._info, self._building, token)

    def sample(self, size: int) -> Vectors:
        with self._connections.use() as connection:
            vectors = searching.sample(connection, self._names, size)
        return np.concatenate([np.empty((0, self._info.dimensions), np.float32), *(row[np.newaxis] for row in vectors)])

    def search(self, vector: Vectors, k: int, *, exact: bool = False) -> list[Hit]:
        with self._connections.transaction() as connection:
            searching.prepare(connection, k, self._ef_search, exact=exact)
            statement = searching.nearest(self._names, self._info.metric)
            rows = connection.execute(statement, (searching.literal(vector), k)).fetchall()
        return [Hit(*row) for row in rows]
