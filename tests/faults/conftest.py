"""A sandbox whose servers may be killed at any time, and runs in databases of their own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from airflow_reindex.director.model.plan import PlannedChunk
from airflow_reindex.director.planning import planning
from sandbox.servers.cluster import Sandbox
from sandbox.servers.postgres import Postgres
from tests.faults.contents import Changing
from tests.faults.moving import moving
from tests.support.build import Build
from tests.support.reindex import Factory

_SUB_CHUNKS = itertools.count(1)


@pytest.fixture(scope="session")
def shaky(tmp_path_factory: pytest.TempPathFactory, mariadb_template: Path) -> Iterator[Sandbox]:
    """Servers of these tests alone, so that their deaths disturb nobody else."""
    sandbox = Sandbox(tmp_path_factory.mktemp("shaky") / "root", workers=2, template=mariadb_template)
    try:
        yield sandbox.up(owner_pid=os.getpid())
    finally:
        sandbox.destroy()


@pytest.fixture
def shaky_build(shaky: Sandbox, tmp_path: Path) -> Callable[..., Build]:
    """A factory of builds in the sandbox whose servers get killed."""

    def make(database: str, *, run_id: str = "run", **params: object) -> Build:
        return Build(shaky, tmp_path / "staging", database, run_id, params)

    return make


@pytest.fixture
def build(sky: Changing, shaky_build: Callable[..., Build]) -> Callable[..., Build]:
    """A factory of runs over a live index that is out of date."""
    database = sky.spec.database
    shaky_build(database, run_id="before", rebuild=1, force_takeover=1).run()
    sky.change(list(sky.placement), next(_SUB_CHUNKS))
    return lambda run_id="run": shaky_build(database, run_id=run_id, rebuild=1)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server of these tests alone. Its commits are on disk, as far as a process can tell."""
    server = Postgres(tmp_path_factory.mktemp("mortal") / "root", {"fsync": "off"}, temporary=True)
    try:
        yield server.up(owner_pid=os.getpid())
    finally:
        server.destroy()


@pytest.fixture
def make(postgres: Postgres, tmp_path: Path) -> Iterator[Factory]:
    """Runs in a database of the test's own."""
    with moving(postgres, tmp_path) as factory:
        yield factory


@pytest.fixture
def one_group_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans have one extract task for each worker."""

    def make_groups(assigned: Mapping[str, Sequence[PlannedChunk]], _: int) -> tuple[tuple[PlannedChunk, ...], ...]:
        return tuple(map(tuple, assigned.values()))

    monkeypatch.setattr(planning, "make_groups", make_groups)
