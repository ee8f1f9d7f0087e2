"""Each test here runs with each store: pgvector in a private PostgreSQL, LanceDB in a folder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from psycopg import sql

from airflow_reindex.vectors.model.collection import Collection
from airflow_reindex.vectors.model.store import Store
from airflow_reindex.vectors.stores.lancedb import LanceStore, registry
from airflow_reindex.vectors.stores.lancedb.collection import schema
from airflow_reindex.vectors.stores.lancedb.database import one_of
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.servers.postgres import Postgres
from tests.vectors.contract.samples import DIMENSIONS, Place, created

_NUMBERS = itertools.count()


@pytest.fixture(
    scope="module",
    params=[pytest.param("pgvector", marks=pytest.mark.server), pytest.param("lance", marks=pytest.mark.database)],
)
def kind(request: pytest.FixtureRequest) -> str:
    """The store's kind."""
    return str(request.param)


@pytest.fixture(scope="module")
def database(kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new PostgreSQL database's name, where one is needed."""
    if kind == "lance":
        yield ""
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = f"contract_{next(_NUMBERS)}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def place(
    kind: str, database: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """An empty place for a store."""
    if kind == "pgvector":
        return _in_postgres(request.getfixturevalue("postgres"), database)
    monkeypatch.setattr(registry, "_SETTLE_SECONDS", 0.0)
    return _in_folder(tmp_path / "lance")


@pytest.fixture
def bare(place: Place) -> Iterator[Store]:
    """A store where nothing has been prepared."""
    store = place.store()
    yield store
    store.close()


@pytest.fixture
def store(bare: Store) -> Store:
    """A store that is ready."""
    bare.prepare()
    return bare


@pytest.fixture
def source(store: Store) -> Collection:
    """An empty collection."""
    return created(store, "src")


@pytest.fixture
def dest(store: Store) -> Collection:
    """Another empty collection."""
    return created(store, "dst")


def connect_pgvector(uri: str) -> Store:
    """A store in PostgreSQL."""
    return PgVectorStore(connector(uri), label="test", switch_seconds=2.0)


def connect_lance(uri: str) -> Store:
    """A store in a folder."""
    return LanceStore(uri)


def _in_postgres(postgres: Postgres, database: str) -> Place:
    # Not the whole schema: the extension would go with it, and takes its time to come back.
    with postgres.connect(database) as connection:
        connection.execute("DROP SCHEMA IF EXISTS airflow_reindex CASCADE")
        tables = "SELECT relname FROM pg_class WHERE relowner = 'reindex'::regrole AND relkind = 'r'"
        for (table,) in connection.execute(tables).fetchall():
            connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table)))

    def run(statement: str, collection_id: str, **values: Any) -> None:
        text: Any = statement
        tables = {kind: sql.Identifier(f"{kind}_{collection_id}") for kind in ("dbo", "dbop")}
        with postgres.connect(database, user="reindex") as connection:
            connection.execute(sql.SQL(text).format(**tables), values)

    def rewrite(collection_id: str, key: str, payload: Any) -> None:
        text = json.dumps(payload)
        run("UPDATE {dbo} SET payload = %(text)s::jsonb WHERE object_id = %(key)s", collection_id, text=text, key=key)

    def remove(collection_id: str, key: str) -> None:
        run("DELETE FROM {dbop} WHERE object_id = %(key)s", collection_id, key=key)
        run("DELETE FROM {dbo} WHERE object_id = %(key)s", collection_id, key=key)

    def strip(collection_id: str, key: str, average: bool) -> None:
        condition = "object_id = %(key)s AND is_average = %(average)s"
        run(f"DELETE FROM {{dbop}} WHERE {condition}", collection_id, key=key, average=average)

    def copy(collection_id: str, key: str, own: str) -> None:
        values = {"key": key, "own": own, "vector": str([1.0] * DIMENSIONS)}
        run(
            "INSERT INTO {dbo} (object_id, original_id, user_id) VALUES (%(own)s, %(key)s, 'u')",
            collection_id,
            **values,
        )
        for suffix, average in ((":0", "false"), (":average", "true")):
            run(
                f"INSERT INTO {{dbop}} VALUES (%(own)s || '{suffix}', %(own)s, %(vector)s::vector, {average}, 'u')",
                collection_id,
                **values,
            )

    uri = postgres.connection_uri(database)
    return Place(connect=connect_pgvector, address=uri, rewrite=rewrite, remove=remove, strip=strip, copy=copy)


def _in_folder(folder: Path) -> Place:
    folder.mkdir()
    connection = lancedb.connect(folder)

    def rewrite(collection_id: str, key: str, payload: Any) -> None:
        where = f"{one_of('object_id', [key])} AND is_average"
        connection.open_table(collection_id).update(where=where, values={"payload": json.dumps(payload)})

    def remove(collection_id: str, key: str) -> None:
        connection.open_table(collection_id).delete(one_of("object_id", [key]))

    def strip(collection_id: str, key: str, average: bool) -> None:
        connection.open_table(collection_id).delete(f"{one_of('object_id', [key])} AND is_average = {average}")

    def copy(collection_id: str, key: str, own: str) -> None:
        common = {"object_id": own, "original_id": key, "user_id": "u", "vector": np.ones(DIMENSIONS).tolist()}
        empty = dict.fromkeys(schema(DIMENSIONS).names)
        rows = [
            {**empty, **common, "part_id": f"{own}:0", "is_average": False},
            {**empty, **common, "part_id": f"{own}:average", "is_average": True},
        ]
        connection.open_table(collection_id).add(rows)

    return Place(connect=connect_lance, address=str(folder), rewrite=rewrite, remove=remove, strip=strip, copy=copy)
