"""A store in a database of its own for each module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.servers.postgres import Postgres

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[str]:
    """A new database's name."""
    name = f"vectors_{next(_NUMBERS)}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def store(postgres: Postgres, database: str) -> Iterator[PgVectorStore]:
    """A store of the account that owns nothing but its own tables; the database is emptied before."""
    with postgres.connect(database) as connection:
        connection.execute("DROP OWNED BY reindex CASCADE")
        connection.execute("DROP SCHEMA IF EXISTS airflow_reindex CASCADE")
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    postgres.create_database(database)
    made = PgVectorStore(connector(postgres.connection_uri(database)), label="test", switch_seconds=1.0)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def admin(postgres: Postgres, database: str, store: PgVectorStore) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the account that the store uses, as a second user of the tables."""
    with postgres.connect(database, user="reindex") as connection:
        yield connection
