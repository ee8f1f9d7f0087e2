"""Databases for reindexes whose tasks are processes of their own, and what all of their tests look at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_reindex.vectors.model.store import Pointer
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.support.collection_contents import follower, keys_seen
from tests.support.reindex import DIMENSIONS, OLD, Admin, Factory, Reindex, make_source, texts

ITEMS = 300
_NUMBERS = itertools.count()


@contextmanager
def moving(postgres: Postgres, staging: Path) -> Iterator[Factory]:
    """A database with a source whose readers follow an alias, and a factory of runs that switch them over."""
    name = f"moving_{next(_NUMBERS)}"
    postgres.create_database(name)
    try:
        with EmbeddingServer(DIMENSIONS) as server:

            def make(run_id: str = "run", **params: Any) -> Reindex:
                given = {"deploy_as_blue": True, "alias": "products", "batch_size": ITEMS, **params}
                return Reindex(postgres, name, server, staging, run_id, **given)

            first = make()
            with first.tools() as tools, connect(first) as admin:
                make_source(admin, texts(ITEMS))
                tools.store.prepare()
                tools.store.repoint(Pointer(alias="products", collection_id=OLD, embedding_model_id=OLD), None)
            yield make
    finally:
        postgres.drop_database(name)


def connect(run: Reindex) -> Admin:
    """Whoever may do everything."""
    return run.postgres.connect(run.database)


def assert_readers_follow(run: Reindex, collection_id: str) -> None:
    """Readers of the alias see all items of a collection."""
    assert follower(run) == collection_id
    with connect(run) as admin:
        assert keys_seen(admin, "products") == texts(ITEMS).keys()


def claimants(run: Reindex) -> list[str]:
    """The runs that hold claims."""
    with connect(run) as admin:
        return [run_id for (run_id,) in admin.execute("SELECT run_id FROM airflow_reindex.claims").fetchall()]


def relations(run: Reindex) -> list[str]:
    """All tables, views and indexes of the database."""
    with connect(run) as admin:
        found = admin.execute(
            "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relnamespace::regnamespace::text "
            "NOT IN ('pg_catalog', 'pg_toast', 'information_schema') ORDER BY 1"
        ).fetchall()
    return [name for (name,) in found]
