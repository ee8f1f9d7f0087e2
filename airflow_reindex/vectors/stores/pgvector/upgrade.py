"""Upgrade of own tables made by an earlier version, which had no schemas."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from psycopg import sql

from airflow_reindex.vectors.stores.pgvector.checks import exists
from airflow_reindex.vectors.stores.pgvector.schema import (
    ALIASES,
    CLAIMS,
    COLLECTIONS,
    LOCK_PREPARE,
    SCHEMA,
    Names,
    locate,
)

Connection = psycopg.Connection[Any]

log = logging.getLogger(__name__)

#: The tables' former primary keys, and the columns that they lacked.
_KEYS = (
    (COLLECTIONS, "collections_pkey", "collection_id", ("schema_name",)),
    (CLAIMS, "claims_pkey", "dest", ("schema_name", "source_schema")),
    (ALIASES, "aliases_pkey", "alias", ("schema_name", "collection_schema")),
)


def upgrade(connection: Connection) -> None:
    """
    Key claims, aliases, notes and marks by the schemas of their tables, unless that is done.

    Several processes may do it at the same time; all but one wait.
    """
    if not _is_old(connection):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK_PREPARE)
        if not _is_old(connection):
            return
        for table, _, _, columns in _KEYS:
            for column in columns:
                connection.execute(
                    sql.SQL("ALTER TABLE {} ADD COLUMN {} text NOT NULL DEFAULT ''").format(
                        table, sql.Identifier(column)
                    )
                )
        homes = _place_collections(connection)
        _place_claims(connection, homes)
        _place_aliases(connection, homes)
        for table, constraint, key, columns in _KEYS:
            for column in columns:
                connection.execute(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT").format(table, sql.Identifier(column))
                )
            connection.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}, ADD PRIMARY KEY (schema_name, {})").format(
                    table, sql.Identifier(constraint), sql.Identifier(key)
                )
            )
    log.info("the tables of %s know schemas now; collections are in %s", SCHEMA, sorted(set(homes.values())) or "none")


def _is_old(connection: Connection) -> bool:
    return exists(
        connection,
        "SELECT 1 WHERE to_regclass(%s) IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attname = 'schema_name' AND NOT attisdropped)",
        *(ALIASES.as_string(connection),) * 2,
    )


def _place_collections(connection: Connection) -> dict[str, str]:
    """Find the schemas of all noted collections, and rename their marks."""
    homes: dict[str, str] = {}
    for (name,) in connection.execute(sql.SQL("SELECT collection_id FROM {}").format(COLLECTIONS)).fetchall():
        found = _schemas_with(connection, name, "r", "p")
        schema = found[0] if len(found) == 1 else _most_marked(connection, name, found)
        connection.execute(
            sql.SQL("UPDATE {} SET schema_name = %s WHERE collection_id = %s").format(COLLECTIONS), (schema, name)
        )
        old, new = Names(name).marks_name, Names(name, schema).marks_name
        if old != new:
            connection.execute(
                sql.SQL("ALTER TABLE IF EXISTS {} RENAME TO {}").format(
                    sql.Identifier(SCHEMA, old), sql.Identifier(new)
                )
            )
        homes[name] = schema
    return homes


def _schemas_with(connection: Connection, name: str, *kinds: str) -> list[str]:
    rows = connection.execute(
        "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = %s AND c.relkind::text = ANY(%s) ORDER BY 1",
        (Names(name).objects_name, list(kinds)),
    ).fetchall()
    return [schema for (schema,) in rows]


def _most_marked(connection: Connection, name: str, schemas: list[str]) -> str:
    """Of several schemas with a collection of that id, return the one with most objects among the marks."""
    best, most = locate(connection, name).schema, 0
    marks = sql.Identifier(SCHEMA, Names(name).marks_name)
    if not exists(connection, "SELECT 1 WHERE to_regclass(%s) IS NOT NULL", marks.as_string(connection)):
        return best
    for schema in schemas:
        names = Names(name, schema)
        if not exists(connection, "SELECT 1 WHERE has_schema_privilege(%s, 'USAGE')", schema):
            continue
        if not exists(connection, "SELECT 1 WHERE has_table_privilege(%s, 'SELECT')", names.objects_path):
            continue
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {} JOIN {} USING (object_id)").format(marks, names.objects)
        ).fetchone()
        if row and row[0] > most:
            best, most = schema, row[0]
    return best


def _place_claims(connection: Connection, homes: dict[str, str]) -> None:
    for dest, source in connection.execute(sql.SQL("SELECT dest, source FROM {}").format(CLAIMS)).fetchall():
        sources = _schemas_with(connection, source, "r", "p")
        schema = homes.get(dest) or next(iter(_schemas_with(connection, dest, "r", "p")), "")
        # A destination that does not exist yet will be created beside its source.
        schema = schema or (sources[0] if len(sources) == 1 else locate(connection, source or dest).schema)
        source_schema = sources[0] if len(sources) == 1 else schema
        connection.execute(
            sql.SQL("UPDATE {} SET schema_name = %s, source_schema = %s WHERE dest = %s").format(CLAIMS),
            (schema, source_schema, dest),
        )


def _place_aliases(connection: Connection, homes: dict[str, str]) -> None:
    rows = connection.execute(sql.SQL("SELECT alias, collection_id FROM {}").format(ALIASES)).fetchall()
    for alias, collection_id in rows:
        found = _schemas_with(connection, collection_id, "r", "p")
        views = _schemas_with(connection, alias, "v")
        home = homes.get(collection_id) or (found[0] if len(found) == 1 else "")
        schema = views[0] if len(views) == 1 else (home or locate(connection, alias).schema)
        connection.execute(
            sql.SQL("UPDATE {} SET schema_name = %s, collection_schema = %s WHERE alias = %s").format(ALIASES),
            (schema, home or schema, alias),
        )
