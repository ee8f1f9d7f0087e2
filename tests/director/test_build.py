"""The steps of a build against real servers: the index equals the catalog, key by key."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from tests.support.build import Build, assert_same, tables_of

SMALL = CatalogSpec(rows=30_000, chunks=60)


def test_index_equals_catalog(catalog: CatalogFactory, build: Callable[..., Build]) -> None:
    made = catalog(SMALL)
    run = build(made.spec.database)
    assert run.run().rows == made.rows
    assert_same(run.index(), truth(made.spec).index_rows())
    own = [name for name in tables_of(run.sandbox, "qservMeta") if name.startswith(made.spec.database)]
    assert own == [run.request.index_table]
