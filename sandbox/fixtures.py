"""A pytest plugin: a sandbox for the whole test session, and catalogs in it.

Load it by ``pytest_plugins = ["sandbox.fixtures"]``.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, drop, generate
from sandbox.servers import datadir
from sandbox.servers.cluster import Sandbox


class CatalogFactory(Protocol):
    """Makes catalogs; see the fixture :func:`catalog`."""

    def __call__(self, spec: CatalogSpec, *, fresh: bool = False) -> CatalogSummary:
        """Generate a catalog.

        :param spec: what it should be like; with the default name of the database it gets a unique one, which the
            summary's spec tells
        :param fresh: do not share the catalog with other tests, because this one changes it
        :returns: the catalog
        """


@pytest.fixture(scope="session")
def mariadb_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder that servers start from, made once for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    with (folder / "mariadb-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return datadir.make_template(folder / "mariadb-template").parent


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory, mariadb_template: Path) -> Iterator[Sandbox]:
    """A running czar with two workers; they die with the test process, however it ends."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox") / "root", workers=2, template=mariadb_template)
    try:
        yield sandbox.up(owner_pid=os.getpid())
    finally:
        sandbox.destroy()


@pytest.fixture(scope="session")
def catalog(sandbox: Sandbox) -> Iterator[CatalogFactory]:
    """A factory of catalogs in the session's sandbox; equal specs share one catalog. All are dropped in the end."""
    numbers = itertools.count(1)
    shared: dict[CatalogSpec, CatalogSummary] = {}
    databases: set[str] = set()

    def make(spec: CatalogSpec, *, fresh: bool = False) -> CatalogSummary:
        if not fresh and spec in shared:
            return shared[spec]
        named = replace(spec, database=f"sky_{next(numbers)}") if spec.database == CatalogSpec.database else spec
        databases.add(named.database)
        summary = generate(sandbox, named)
        if not fresh:
            shared[spec] = summary
        return summary

    yield make
    for database in sorted(databases):
        drop(sandbox, database)
