"""What the tests of the store share: collections as EmbeddingStudio makes them, and batches to be written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from airflow_reindex.vectors.model.collection import CollectionInfo, Embedded, Item, SyncState
from airflow_reindex.vectors.stores.pgvector.schema import locate
from tests.vectors.contract.samples import item

Admin = psycopg.Connection[Any]
DIMENSIONS = 8


def info(collection_id: str, **changes: Any) -> CollectionInfo:
    """What a small collection is made of."""
    return CollectionInfo(
        **{"embedding_model_id": "model", "dimensions": DIMENSIONS, **changes}, collection_id=collection_id
    )


def mark(version: bytes = b"v" * 16, **changes: Any) -> SyncState:
    """What is remembered of an item that landed."""
    return SyncState(**{"version": version, "embedding_config_hash": b"recipe", "plan_token": "run", **changes})


def embedded(one: Item, parts: int = 2, seed: int = 0, dimensions: int = DIMENSIONS, **marks: Any) -> Embedded:
    """An item with vectors."""
    vectors = np.random.default_rng(seed).normal(size=(parts, dimensions)).astype(np.float32)
    return Embedded(one, vectors, mark(one.version, **marks))


def embedded_all(keys: Iterable[str], **more: Any) -> list[Embedded]:
    """Items with vectors."""
    return [embedded(item(key), seed=number, **more) for number, key in enumerate(keys)]


def make_source(
    connection: Admin,
    collection_id: str,
    count: int,
    *,
    dimensions: int = DIMENSIONS,
    collation: str = "",
    index: bool = True,
) -> None:
    """A collection as EmbeddingStudio makes it: two parts an object, ``is_average`` unset, the index made at once."""
    names = locate(connection, collection_id)
    collate = f' COLLATE "{collation}"' if collation else ""
    statements = [
        f"CREATE TABLE {{objects}} (object_id varchar(128){collate} PRIMARY KEY, payload jsonb, storage_meta jsonb, "
        f"original_id varchar(128){collate}, user_id varchar(128), session_id varchar(128))",
        f"CREATE TABLE {{parts}} (part_id varchar(128) PRIMARY KEY, object_id varchar(128){collate} "
        f"REFERENCES {{objects}}, vector vector({dimensions}), is_average boolean, user_id varchar(128))",
        "CREATE INDEX ON {objects} USING gin (payload)",
        "CREATE INDEX ON {objects} (original_id)",
        "CREATE INDEX ON {parts} (object_id)",
        "INSERT INTO {objects} SELECT 'o' || lpad(i::text, 7, '0'), jsonb_build_object('n', i), "
        f"jsonb_build_object('bucket', 'b', 'file', i::text) FROM generate_series(0, {count - 1}) i",
        # The length makes the array one a row.
        "INSERT INTO {parts} SELECT o.object_id || suffix, o.object_id, (SELECT array_agg(random() - 0.5) "
        f"FROM generate_series(1, {dimensions} + 0 * length(o.object_id || suffix)))::vector, NULL "
        "FROM {objects} o, unnest(ARRAY[':0', ':average']) suffix",
    ]
    if index:
        statements.insert(
            2,
            "CREATE INDEX {index} ON {parts} USING hnsw (vector vector_cosine_ops) "
            "WITH (m = '16', ef_construction = '64')",
        )
    for statement in statements:
        text: Any = statement
        connection.execute(
            sql.SQL(text).format(objects=names.objects, parts=names.parts, index=sql.Identifier(names.index_name))
        )


def all_rows(connection: Admin, table: sql.Identifier) -> list[tuple[Any, ...]]:
    """A table's rows as text, sorted."""
    return sorted(connection.execute(sql.SQL("SELECT t::text FROM {} t").format(table)).fetchall())
