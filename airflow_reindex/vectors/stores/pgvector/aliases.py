"""Aliases: a pair of views that readers follow, and a row in this package's own table."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.pgvector.registry import as_seen, is_prepared
from airflow_reindex.vectors.stores.pgvector.schema import ALIASES, Names, locate, schema_of

Connection = psycopg.Connection[Any]


def read_followers(connection: Connection, names: Names) -> list[str]:
    """Return the aliases that point to a collection."""
    if not is_prepared(connection):
        return []
    statement = sql.SQL("SELECT {} FROM {} WHERE collection_schema = %s AND collection_id = %s ORDER BY alias").format(
        as_seen("schema_name", "alias"), ALIASES
    )
    return [alias for (alias,) in connection.execute(statement, (names.schema, names.base)).fetchall()]


def read_pointer(connection: Connection, alias: str) -> Pointer | None:
    """Return where an alias points; ``None`` when it does not exist."""
    if not is_prepared(connection):
        return None
    statement = sql.SQL(
        "SELECT {}, embedding_model_id, previous_collection_id, previous_model_id, run_id, hooked, "
        "to_char(switched_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM {} "
        "WHERE alias = %s AND schema_name = {}"
    ).format(as_seen("collection_schema", "collection_id"), ALIASES, schema_of("alias"))
    row = connection.execute(statement, (alias,)).fetchone()
    if row is None:
        return None
    collection_id, model_id, previous_id, previous_model_id, run_id, hooked, switched_at = row
    return Pointer(
        alias=alias,
        collection_id=collection_id,
        embedding_model_id=model_id,
        previous_collection_id=previous_id,
        previous_model_id=previous_model_id,
        run_id=run_id,
        hooked=hooked,
        switched_at=switched_at,
    )


def refuse_taken_alias(connection: Connection, alias: str) -> None:
    """
    Refuse a name that cannot be an alias.

    :raises RequestError: it is invalid or already taken by something else.
    """
    names = locate(connection, alias, "alias")
    ours = read_pointer(connection, alias) is not None
    for name, path in ((names.objects_name, names.objects_path), (names.parts_name, names.parts_path)):
        row = connection.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", (path,)).fetchone()
        if row is None or (row[0] == "v" and ours):
            continue
        what = "a view that was not made by this product" if row[0] == "v" else "a collection's table"
        raise RequestError(
            f"the alias '{alias}' cannot be used: '{name}' is {what}. Choose another alias, or rename what has that "
            "name."
        )


def point(connection: Connection, pointer: Pointer) -> None:
    """
    Change the views that readers follow, and the registry, within the caller's transaction.

    Views are replaced only when the alias gets another collection, as a replacement waits for readers.
    """
    seen = read_pointer(connection, pointer.alias)
    moved = seen is None or seen.collection_id != pointer.collection_id
    views, tables = locate(connection, pointer.alias, "alias"), locate(connection, pointer.collection_id)
    _note_pointer(connection, pointer, views.schema, tables.schema, moved=moved)
    if not moved and _both_views(connection, views):
        return
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE VIEW {} AS SELECT object_id, payload, storage_meta, original_id, user_id, session_id "
            "FROM {}"
        ).format(views.objects, tables.objects)
    )
    # The cast removes the number of dimensions from the column, which a replaced view could not change. It costs
    # nothing at run time, and the planner still finds the index.
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE VIEW {} AS SELECT part_id, object_id, vector::vector AS vector, is_average, user_id "
            "FROM {}"
        ).format(views.parts, tables.parts)
    )


def _note_pointer(
    connection: Connection, pointer: Pointer, schema: str, collection_schema: str, *, moved: bool
) -> None:
    connection.execute(
        sql.SQL(
            "INSERT INTO {} AS a (schema_name, alias, collection_schema, collection_id, embedding_model_id, "
            "previous_collection_id, previous_model_id, run_id, hooked, switched_at) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp()) "
            "ON CONFLICT (schema_name, alias) DO UPDATE SET collection_schema = EXCLUDED.collection_schema, "
            "collection_id = EXCLUDED.collection_id, "
            "embedding_model_id = EXCLUDED.embedding_model_id, "
            "previous_collection_id = EXCLUDED.previous_collection_id, "
            "previous_model_id = EXCLUDED.previous_model_id, run_id = EXCLUDED.run_id, hooked = EXCLUDED.hooked, "
            "switched_at = CASE WHEN %s THEN EXCLUDED.switched_at ELSE a.switched_at END"
        ).format(ALIASES),
        (
            *(schema, pointer.alias, collection_schema, pointer.collection_id, pointer.embedding_model_id),
            *(pointer.previous_collection_id, pointer.previous_model_id, pointer.run_id, pointer.hooked, moved),
        ),
    )


def _both_views(connection: Connection, views: Names) -> bool:
    row = connection.execute(
        "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", (views.objects_path, views.parts_path)
    ).fetchone()
    return bool(row and row[0])
