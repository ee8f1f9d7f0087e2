"""Catalogs without rows or chunks have an empty index."""

from __future__ import annotations

import pytest

from sandbox.catalog.catalog import CatalogSpec
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.director.failing import Register, configure, live
from tests.support.build import Build, Factory, run_sql

pytestmark = pytest.mark.usefixtures("clean")


class TestEmptyCatalogs:
    def test_empty_chunk_tables(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(CatalogSpec(rows=0, chunks=6, empty_chunks=6))
        self.build_empty(build(made.spec.database))

    def test_no_chunks(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"DELETE FROM replica WHERE `database` = '{name}'")
        run = build(name)
        self.build_empty(run)
        assert run.plan_made.groups == ()

    @staticmethod
    def build_empty(run: Build) -> None:
        assert run.run().rows == 0
        assert run_sql(run.sandbox.czar, f"SELECT COUNT(*) FROM {live(run)}") == [(0,)]
        run.finish()
        assert run.working_tables() == []
