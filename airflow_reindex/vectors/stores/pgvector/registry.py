"""This package's own tables: claims, and properties of collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.core.failures import ClaimLostError, ConflictError
from airflow_reindex.vectors.model.collection import CollectionInfo, Metric
from airflow_reindex.vectors.stores.pgvector.schema import (
    ALIASES,
    CLAIMS,
    COLLECTIONS,
    LOCK_CLAIMS,
    OPCLASSES,
    Names,
    schema_of,
)

Connection = psycopg.Connection[Any]


def is_prepared(connection: Connection) -> bool:
    """Whether this package's own tables exist; one transaction creates all of them."""
    statement = "SELECT to_regclass(%s) IS NOT NULL"
    row = connection.execute(statement, (ALIASES.as_string(connection),)).fetchone()
    return bool(row and row[0])


def fence(connection: Connection, token: str) -> None:
    """
    Check that a claim exists, and keep it until the transaction's end: a takeover waits, heartbeats do not.

    :raises ClaimLostError: it does not exist.
    """
    statement = sql.SQL("SELECT 1 FROM {} WHERE token = %s FOR KEY SHARE").format(CLAIMS)
    if connection.execute(statement, (token,)).fetchone() is None:
        raise ClaimLostError("the claim is another run's by now; this run writes nothing more.")


def read_claims(connection: Connection) -> list[Claim]:
    """
    Return the claims on collections visible to this session, with silence measured by the server's clock.

    A destination or source in another schema is named ``<schema>%<id>``, which cannot be an id.
    """
    if not is_prepared(connection):
        return []
    statement = sql.SQL(
        "SELECT {dest_id}, {source_id}, token, deployment, dag_id, run_id, host, folder, "
        "greatest(extract(epoch FROM clock_timestamp() - alive_at), 0)::float8 FROM {claims} "
        "WHERE schema_name = {dest} OR source_schema = {source} ORDER BY dest"
    ).format(
        claims=CLAIMS,
        dest=schema_of("dest"),
        source=schema_of("source"),
        dest_id=as_seen("schema_name", "dest"),
        source_id=as_seen("source_schema", "source"),
    )
    return [
        Claim(dest=dest, source=source, token=token, owner=Owner(*owner), silent=silent)
        for dest, source, token, *owner, silent in connection.execute(statement).fetchall()
    ]


def as_seen(schema: LiteralString, name: LiteralString) -> sql.Composed:
    """
    Return an expression for an id if it means the same table in this session, else for a name that no id has.

    :param schema: the column with the schema.
    :param name: the column with the id.
    """
    return sql.SQL("CASE WHEN {schema} = {here} THEN {name} ELSE {schema} || chr(37) || {name} END").format(
        schema=sql.Identifier(schema), here=schema_of(name), name=sql.Identifier(name)
    )


def take_claim(connection: Connection, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
    """
    Take a claim within the caller's transaction, one taker at a time.

    :param judge: as for :meth:`airflow_reindex.vectors.model.store.Store.take`.
    :raises ConflictError: the destination has another claim, which the judge did not give away.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK_CLAIMS)
    replaced = judge(read_claims(connection))
    if replaced is not None:
        delete_claim(connection, replaced)
    owner, schemas = claim.owner, [schema_of("%s::text")] * 2
    made = connection.execute(
        sql.SQL(
            "INSERT INTO {} (schema_name, dest, source_schema, source, token, deployment, dag_id, run_id, host, folder)"
            " VALUES ({}, %s, {}, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (schema_name, dest) DO NOTHING"
        ).format(CLAIMS, *schemas),
        (
            *(claim.dest, claim.dest, claim.source, claim.source, claim.token),
            *(owner.deployment, owner.dag_id, owner.run_id, owner.host, owner.folder),
        ),
    )
    if made.rowcount != 1:
        raise ConflictError(f"collection '{claim.dest}' is being built by another run.")
    return replaced


def touch_claim(connection: Connection, claim: Claim) -> bool:
    """Write a heartbeat, and return whether the claim still exists."""
    statement = sql.SQL("UPDATE {} SET alive_at = clock_timestamp() WHERE dest = %s AND token = %s").format(CLAIMS)
    return connection.execute(statement, (claim.dest, claim.token)).rowcount == 1


def delete_claim(connection: Connection, claim: Claim) -> None:
    """Remove a claim, if it exists."""
    # Matched by token, as a destination in another schema has another name in this session.
    connection.execute(sql.SQL("DELETE FROM {} WHERE token = %s").format(CLAIMS), (claim.token,))


def find_collection(connection: Connection, names: Names) -> CollectionInfo | None:
    """
    Return a collection's properties: the tables decide, and the note adds what they do not say.

    :returns: ``None`` when one of its two tables does not exist; an alias's views do not count.
    """
    dimensions = connection.execute(
        "SELECT a.atttypmod FROM pg_class p JOIN pg_attribute a ON a.attrelid = p.oid AND a.attname = 'vector', "
        "pg_class o WHERE p.oid = to_regclass(%s) AND p.relkind IN ('r', 'p') "
        "AND o.oid = to_regclass(%s) AND o.relkind IN ('r', 'p')",
        (names.parts_path, names.objects_path),
    ).fetchone()
    if dimensions is None:
        return None
    noted = None
    if is_prepared(connection):
        statement = sql.SQL(
            "SELECT embedding_model_id, dimensions, metric, m, ef_construction FROM {} "
            "WHERE schema_name = %s AND collection_id = %s"
        ).format(COLLECTIONS)
        noted = connection.execute(statement, (names.schema, names.base)).fetchone()
    model, known, m, ef_construction = (noted[0], noted[1], *noted[3:]) if noted else ("", 0, 16, 64)
    metric: Metric = noted[2] if noted else "cosine"
    for _, _, opclass, options in ann_indexes(connection, names):
        metric = next((name for name, other in OPCLASSES.items() if other == opclass), metric)
        m = int(options.get("m", 16))
        ef_construction = int(options.get("ef_construction", 64))
    size = dimensions[0] if dimensions[0] > 0 else known or _dimensions_of_a_vector(connection, names)
    return CollectionInfo(
        collection_id=names.base,
        embedding_model_id=model,
        dimensions=size,
        metric=metric,
        m=m,
        ef_construction=ef_construction,
    )


def _dimensions_of_a_vector(connection: Connection, names: Names) -> int:
    statement = sql.SQL("SELECT vector_dims(vector) FROM {} WHERE vector IS NOT NULL LIMIT 1").format(names.parts)
    row = connection.execute(statement).fetchone()
    return row[0] if row else 0


def ann_indexes(connection: Connection, names: Names) -> list[tuple[str, bool, str, dict[str, str]]]:
    """Return a collection's HNSW indexes: quoted name, whether usable, operator class, storage parameters."""
    rows = connection.execute(
        "SELECT i.indexrelid::regclass::text, i.indisvalid AND i.indisready, o.opcname, c.reloptions "
        "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
        "JOIN pg_opclass o ON o.oid = i.indclass[0] "
        "WHERE i.indrelid = to_regclass(%s) AND a.amname = 'hnsw' ORDER BY 1",
        (names.parts_path,),
    ).fetchall()
    return [
        (name, usable, opclass, dict(option.split("=", 1) for option in options or ()))
        for name, usable, opclass, options in rows
    ]


def list_collections(connection: Connection) -> list[str]:
    """Return the noted collections that are visible to this session."""
    if not is_prepared(connection):
        return []
    statement = sql.SQL("SELECT collection_id FROM {} WHERE schema_name = {} ORDER BY collection_id").format(
        COLLECTIONS, schema_of("collection_id")
    )
    return [name for (name,) in connection.execute(statement).fetchall()]


def note_collection(connection: Connection, names: Names, info: CollectionInfo) -> None:
    """Note a collection's properties."""
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (schema_name, collection_id, embedding_model_id, dimensions, metric, m, ef_construction) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (schema_name, collection_id) DO UPDATE SET "
            "embedding_model_id = EXCLUDED.embedding_model_id, dimensions = EXCLUDED.dimensions, "
            "metric = EXCLUDED.metric, m = EXCLUDED.m, ef_construction = EXCLUDED.ef_construction"
        ).format(COLLECTIONS),
        (
            *(names.schema, info.collection_id, info.embedding_model_id, info.dimensions),
            *(info.metric, info.m, info.ef_construction),
        ),
    )
