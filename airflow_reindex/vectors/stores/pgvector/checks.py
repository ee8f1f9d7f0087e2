"""Checks against the database's catalog: privileges, extension, collations."""

from __future__ import annotations

import re
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from airflow_reindex.core.failures import Code, RequestError, TransientError
from airflow_reindex.vectors.stores.pgvector.schema import CLAIMS, SCHEMA, Names, quoted

Connection = psycopg.Connection[Any]

#: The first version in which a cast removes a type's modifier from a view's column.
_SERVER = 140000
#: The first version with HNSW.
_EXTENSION = (0, 5)


def check(connection: Connection, label: str) -> None:
    """
    Refuse a database that lacks something.

    :raises RequestError: something is missing; says what to do.
    :raises TransientError: the server is recovering, or a standby.
    """
    if connection.info.server_version < _SERVER:
        raise RequestError(f"{label}: PostgreSQL 14 or later is needed, not {connection.info.server_version // 10000}.")
    if exists(connection, "SELECT 1 WHERE pg_is_in_recovery()"):
        raise TransientError(f"{label}: the server is a standby or recovers; connect to the primary.")
    _check_extension(connection, label)
    row = connection.execute(
        "SELECT current_user::text, current_database()::text, current_schema()::text, "
        "has_database_privilege(current_database(), 'CREATE'), "
        "coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), "
        "(SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace "
        "WHERE nspname = %s)",
        (SCHEMA,),
    ).fetchone()
    assert row is not None  # noqa: S101 - for the type checker
    user, database, schema, creates, creates_tables, own = row
    if own is False:
        raise RequestError(
            f'{label}: GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO "{user}"; is missing.', code=Code.ACCESS
        )
    if own is None and not creates:
        raise RequestError(
            f'{label}: there is no schema {SCHEMA}, and "{user}" may not create it: '
            f'GRANT CREATE ON DATABASE "{database}" TO "{user}";',
            code=Code.ACCESS,
        )
    if not creates_tables:
        raise RequestError(
            f'{label}: "{user}" may not create collections: GRANT CREATE ON SCHEMA "{schema or "public"}" TO "{user}";',
            code=Code.ACCESS,
        )


def _check_extension(connection: Connection, label: str) -> None:
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    if row is not None:
        version = tuple(int(number) for number in re.findall(r"\d+", row[0])[:2])
        if version < _EXTENSION:
            raise RequestError(
                f"{label}: pgvector 0.5 or later is needed, not {row[0]}: ALTER EXTENSION vector UPDATE;"
            )
        return
    if not exists(connection, "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
        raise RequestError(f"{label}: pgvector is not installed on the server (Debian: postgresql-NN-pgvector).")
    allowed = exists(
        connection,
        "SELECT 1 FROM pg_available_extension_versions v, pg_roles r WHERE v.name = 'vector' "
        "AND r.rolname = current_user "
        "AND (r.rolsuper OR v.trusted AND has_database_privilege(current_database(), 'CREATE'))",
    )
    if not allowed:
        raise RequestError(f"{label}: a superuser has to run in this database: CREATE EXTENSION vector;")


def exists(connection: Connection, statement: LiteralString, *values: str) -> bool:
    """Whether a statement returns a row."""
    return connection.execute(statement, values).fetchone() is not None


def has_index_on(connection: Connection, schema: str, table: str, column: str) -> bool:
    """Whether a table has a usable index whose first column is this one; all names unquoted."""
    return exists(
        connection,
        "SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "WHERE i.indrelid = to_regclass(%s) AND a.attname = %s AND i.indisvalid",
        f"{quoted(schema)}.{quoted(table)}",
        column,
    )


def collation_of_source(connection: Connection, token: str) -> sql.Composable:
    """
    Return the collation of ids in a claim's source as a clause for the destination.

    :returns: empty when it is the database's default, or the source is not in this database.
    """
    statement = sql.SQL("SELECT source, source_schema FROM {} WHERE token = %s").format(CLAIMS)
    source = connection.execute(statement, (token,)).fetchone()
    if source is None:
        return sql.SQL("")
    row = connection.execute(
        "SELECT n.nspname, c.collname FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation "
        "JOIN pg_namespace n ON n.oid = c.collnamespace "
        "WHERE a.attrelid = to_regclass(%s) AND a.attname = 'object_id' AND c.collname <> 'default'",
        (Names(*source).objects_path,),
    ).fetchone()
    return sql.SQL("") if row is None else sql.SQL(" COLLATE {}").format(sql.Identifier(*row))
