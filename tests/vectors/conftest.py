"""A database and an embedding server for reindexes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.vectors.embedding.backends import http
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.support.reindex import DIMENSIONS, Admin, Factory, Reindex

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries of requests do not wait."""
    monkeypatch.setattr(http, "FIRST_WAIT", 0.001)


@pytest.fixture
def vectors(postgres: Postgres) -> Iterator[str]:
    """The name of a new database."""
    name = f"collections_{next(_NUMBERS)}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """An embedding server with an old and a new model."""
    with EmbeddingServer(DIMENSIONS) as server:
        yield server


@pytest.fixture
def admin(postgres: Postgres, vectors: str) -> Iterator[Admin]:
    """A connection to the new database that may do everything."""
    with postgres.connect(vectors) as connection:
        yield connection


@pytest.fixture
def reindex(postgres: Postgres, vectors: str, server: EmbeddingServer, tmp_path: Path) -> Factory:
    """A factory of runs in the new database: `reindex("second", batch_size=4)`."""

    def make(run_id: str = "run", **params: Any) -> Reindex:
        return Reindex(postgres, vectors, server, tmp_path / "staging", run_id, **params)

    return make
