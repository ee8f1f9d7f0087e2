"""Fixtures of the tests that build indexes step by step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.catalog import replication
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.director.failing import Register
from tests.director.sky import Sky
from tests.support.build import Build, assert_same, clean_czar, run_sql

#: The catalog of the tests of claims.
SKY = CatalogSpec(rows=6_000, chunks=12, empty_chunks=0)


@pytest.fixture
def clean(sandbox: Sandbox) -> Iterator[None]:
    """No test sees another's claims and indexes."""
    with clean_czar(sandbox):
        yield


@pytest.fixture
def sky(sandbox: Sandbox, catalog: CatalogFactory) -> CatalogSummary:
    """A catalog of the test's own, whose tables were last written an hour ago."""
    made = catalog(SKY, fresh=True)
    for server in sandbox.workers.values():
        hour_ago = time.time() - 3600
        run_sql(server, f"FLUSH TABLES `{made.spec.database}`.`Object_{min(made.placement)}`")
        for path in (server.data_dir / made.spec.database).glob("*.MYD"):
            os.utime(path, (hour_ago, hour_ago))
    return made


@pytest.fixture
def changing(sandbox: Sandbox, sky: CatalogSummary) -> Sky:
    """The same catalog, to be changed."""
    made = Sky(sandbox, sky)
    assert_same(made.rows(), truth(sky.spec).index_rows())
    return made


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges of several slices."""
    monkeypatch.setattr(Build, "slice_rows", 500)


@pytest.fixture
def registered(sandbox: Sandbox) -> Iterator[Register]:
    """A factory of catalogs that are registered, but have no tables: what is refused is refused before they matter."""
    name = "paper"

    def register(placement: dict[int, tuple[str, ...]] | None = None, **spec: Any) -> str:
        with contextlib.closing(sandbox.czar.connect()) as root:
            replication.create_tables(root, sandbox.workers)
            replication.register(
                root, CatalogSpec(database=name, **spec), placement or {7: ("worker-1",), 1234567890: ("worker-1",)}
            )
        return name

    yield register
    with contextlib.closing(sandbox.czar.connect()) as root:
        replication.forget(root, name)
