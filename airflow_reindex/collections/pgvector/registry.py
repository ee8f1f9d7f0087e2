"""Our own tables: who may write (claims), what collections are made of, and what readers follow (aliases)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from airflow_reindex.collections.collection import CollectionInfo, Metric
from airflow_reindex.collections.pgvector.schema import (
    ALIASES,
    CLAIMS,
    COLLECTIONS,
    LOCK_CLAIMS,
    OPCLASSES,
    Names,
    check_name,
)
from airflow_reindex.collections.store import Pointer
from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.core.failures import ClaimLostError, ConflictError, RequestError

Connection = psycopg.Connection[Any]


def is_prepared(connection: Connection) -> bool:
    """
    Whether our own tables are there: all of them come with one transaction.

    :param connection: the connection.
    """
    statement = "SELECT to_regclass(%s) IS NOT NULL"
    row = connection.execute(statement, (ALIASES.as_string(connection),)).fetchone()
    return bool(row and row[0])


def fence(connection: Connection, token: str) -> None:
    """
    Make sure, until the transaction's end, that a claim is there: a takeover waits for it, signs of life do not.

    :param connection: in a transaction.
    :param token: the claim.
    :raises ClaimLostError: it is gone.
    """
    statement = sql.SQL("SELECT 1 FROM {} WHERE token = %s FOR KEY SHARE").format(CLAIMS)
    if connection.execute(statement, (token,)).fetchone() is None:
        raise ClaimLostError("the claim is another run's by now; this run writes nothing more.")


def read_claims(connection: Connection) -> list[Claim]:
    """
    All claims, and how long their owners have been silent by the server's clock.

    :param connection: the connection.
    """
    if not is_prepared(connection):
        return []
    statement = sql.SQL(
        "SELECT dest, source, token, deployment, dag_id, run_id, host, folder, "
        "greatest(extract(epoch FROM clock_timestamp() - alive_at), 0)::float8 FROM {} ORDER BY dest"
    ).format(CLAIMS)
    return [
        Claim(dest=dest, source=source, token=token, owner=Owner(*owner), silent=silent)
        for dest, source, token, *owner, silent in connection.execute(statement).fetchall()
    ]


def take_claim(connection: Connection, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
    """
    Look, judge and write: one at a time, all others wait.

    :param connection: in a transaction.
    :param claim: the new claim.
    :param judge: as for :meth:`airflow_reindex.collections.collection.Store.take`.
    :returns: the claim that was replaced.
    :raises ConflictError: the destination has another claim, which the judge did not give away.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK_CLAIMS)
    replaced = judge(read_claims(connection))
    if replaced is not None:
        delete_claim(connection, replaced)
    owner = claim.owner
    made = connection.execute(
        sql.SQL(
            "INSERT INTO {} (dest, source, token, deployment, dag_id, run_id, host, folder) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (dest) DO NOTHING"
        ).format(CLAIMS),
        (claim.dest, claim.source, claim.token, owner.deployment, owner.dag_id, owner.run_id, owner.host, owner.folder),
    )
    if made.rowcount != 1:
        raise ConflictError(f"collection '{claim.dest}' is being built by another run.")
    return replaced


def touch_claim(connection: Connection, claim: Claim) -> bool:
    """
    Give a sign of life.

    :param connection: the connection.
    :param claim: the claim.
    :returns: whether it is still there.
    """
    statement = sql.SQL("UPDATE {} SET alive_at = clock_timestamp() WHERE dest = %s AND token = %s").format(CLAIMS)
    return connection.execute(statement, (claim.dest, claim.token)).rowcount == 1


def delete_claim(connection: Connection, claim: Claim) -> None:
    """
    Remove a claim; one that is gone does not matter.

    :param connection: the connection.
    :param claim: the claim.
    """
    statement = sql.SQL("DELETE FROM {} WHERE dest = %s AND token = %s").format(CLAIMS)
    connection.execute(statement, (claim.dest, claim.token))


def find_collection(connection: Connection, names: Names) -> CollectionInfo | None:
    """
    Find out what a collection is made of: what the tables say counts, and our note says what they do not.

    :param connection: the connection.
    :param names: the collection's.
    :returns: ``None`` when one of its two tables is not there; views of an alias are no tables.
    """
    dimensions = connection.execute(
        "SELECT a.atttypmod FROM pg_class p JOIN pg_attribute a ON a.attrelid = p.oid AND a.attname = 'vector', "
        "pg_class o WHERE p.oid = to_regclass(quote_ident(%s)) AND p.relkind IN ('r', 'p') "
        "AND o.oid = to_regclass(quote_ident(%s)) AND o.relkind IN ('r', 'p')",
        (names.parts_name, names.objects_name),
    ).fetchone()
    if dimensions is None:
        return None
    noted = None
    if is_prepared(connection):
        statement = sql.SQL(
            "SELECT embedding_model_id, dimensions, metric, m, ef_construction FROM {} WHERE collection_id = %s"
        ).format(COLLECTIONS)
        noted = connection.execute(statement, (names.base,)).fetchone()
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
    """
    The HNSW indexes of a collection.

    :param connection: the connection.
    :param names: the collection's.
    :returns: name (quoted where needed), whether it is usable, operator class, storage parameters.
    """
    rows = connection.execute(
        "SELECT i.indexrelid::regclass::text, i.indisvalid AND i.indisready, o.opcname, c.reloptions "
        "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
        "JOIN pg_opclass o ON o.oid = i.indclass[0] "
        "WHERE i.indrelid = to_regclass(quote_ident(%s)) AND a.amname = 'hnsw' ORDER BY 1",
        (names.parts_name,),
    ).fetchall()
    return [
        (name, usable, opclass, dict(option.split("=", 1) for option in options or ()))
        for name, usable, opclass, options in rows
    ]


def known_collections(connection: Connection) -> list[str]:
    """
    The collections that are noted.

    :param connection: the connection.
    """
    if not is_prepared(connection):
        return []
    statement = sql.SQL("SELECT collection_id FROM {} ORDER BY collection_id").format(COLLECTIONS)
    return [name for (name,) in connection.execute(statement).fetchall()]


def note_collection(connection: Connection, info: CollectionInfo) -> None:
    """
    Note what a collection is made of.

    :param connection: the connection.
    :param info: what it is made of.
    """
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (collection_id, embedding_model_id, dimensions, metric, m, ef_construction) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (collection_id) DO UPDATE SET "
            "embedding_model_id = EXCLUDED.embedding_model_id, dimensions = EXCLUDED.dimensions, "
            "metric = EXCLUDED.metric, m = EXCLUDED.m, ef_construction = EXCLUDED.ef_construction"
        ).format(COLLECTIONS),
        (info.collection_id, info.embedding_model_id, info.dimensions, info.metric, info.m, info.ef_construction),
    )


def read_followers(connection: Connection, collection_id: str) -> list[str]:
    """
    The aliases that point to a collection.

    :param connection: the connection.
    :param collection_id: its id.
    """
    if not is_prepared(connection):
        return []
    statement = sql.SQL("SELECT alias FROM {} WHERE collection_id = %s ORDER BY alias").format(ALIASES)
    return [alias for (alias,) in connection.execute(statement, (collection_id,)).fetchall()]


def read_pointer(connection: Connection, alias: str) -> Pointer | None:
    """
    Where an alias points.

    :param connection: the connection.
    :param alias: the readers' name.
    :returns: ``None`` when there is no such alias.
    """
    if not is_prepared(connection):
        return None
    statement = sql.SQL(
        "SELECT collection_id, embedding_model_id, previous_collection_id, previous_model_id, run_id, hooked, "
        "to_char(switched_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM {} WHERE alias = %s"
    ).format(ALIASES)
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

    :param connection: the connection.
    :param alias: the readers' name.
    :raises RequestError: it is no name, or something else has it.
    """
    names = check_name(alias, "alias")
    ours = read_pointer(connection, alias) is not None
    for name in (names.objects_name, names.parts_name):
        row = connection.execute(
            "SELECT relkind::text FROM pg_class WHERE oid = to_regclass(quote_ident(%s))", (name,)
        ).fetchone()
        if row is None or (row[0] == "v" and ours):
            continue
        what = "a view that was not made by this product" if row[0] == "v" else "a collection's table"
        raise RequestError(
            f"the alias '{alias}' cannot be used: '{name}' is {what}. Choose another alias, or rename what has that "
            "name."
        )


def point(connection: Connection, pointer: Pointer) -> None:
    """
    Change what readers follow, and the registry.

    Views are replaced only when the alias gets another collection: a replacement waits for readers.

    :param connection: in a transaction.
    :param pointer: what the alias shall be.
    """
    seen = read_pointer(connection, pointer.alias)
    moved = seen is None or seen.collection_id != pointer.collection_id
    connection.execute(
        sql.SQL(
            "INSERT INTO {} AS a (alias, collection_id, embedding_model_id, previous_collection_id, "
            "previous_model_id, run_id, hooked, switched_at) VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp()) "
            "ON CONFLICT (alias) DO UPDATE SET collection_id = EXCLUDED.collection_id, "
            "embedding_model_id = EXCLUDED.embedding_model_id, "
            "previous_collection_id = EXCLUDED.previous_collection_id, "
            "previous_model_id = EXCLUDED.previous_model_id, run_id = EXCLUDED.run_id, hooked = EXCLUDED.hooked, "
            "switched_at = CASE WHEN %s THEN EXCLUDED.switched_at ELSE a.switched_at END"
        ).format(ALIASES),
        (
            pointer.alias,
            pointer.collection_id,
            pointer.embedding_model_id,
            pointer.previous_collection_id,
            pointer.previous_model_id,
            pointer.run_id,
            pointer.hooked,
            moved,
        ),
    )
    views, tables = check_name(pointer.alias, "alias"), check_name(pointer.collection_id, "collection's id")
    if not moved and _both_views(connection, views):
        return
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE VIEW {} AS SELECT object_id, payload, storage_meta, original_id, user_id, session_id "
            "FROM {}"
        ).format(views.objects, tables.objects)
    )
    # The cast takes the number of dimensions off the column, which a replaced view could not change. It does nothing
    # at run time, and the planner sees through it to the index.
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE VIEW {} AS SELECT part_id, object_id, vector::vector AS vector, is_average, user_id "
            "FROM {}"
        ).format(views.parts, tables.parts)
    )


def _both_views(connection: Connection, views: Names) -> bool:
    row = connection.execute(
        "SELECT to_regclass(quote_ident(%s)) IS NOT NULL AND to_regclass(quote_ident(%s)) IS NOT NULL",
        (views.objects_name, views.parts_name),
    ).fetchone()
    return bool(row and row[0])
