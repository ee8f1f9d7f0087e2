"""Builds that run step by step, without Airflow, and a source of chance whose seed a failure shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from airflow_reindex.core.staging import Folder
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build


@pytest.fixture
def build(sandbox: Sandbox, tmp_path: Path) -> Callable[..., Build]:
    """A factory of builds in the session's sandbox: `build("sky_1", rebuild=1, run_id="second")`."""

    def make(database: str, *, run_id: str = "run", **params: object) -> Build:
        return Build(sandbox, tmp_path / "staging", database, run_id, params)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A run's folder, on the disk, that does not exist yet."""
    return Folder.at(str(tmp_path / "run"))


@pytest.fixture
def chance() -> Random:
    """Different in each run; the environment variable REINDEX_SEED repeats one."""
    seed = int(os.environ.get("REINDEX_SEED") or 0) or int.from_bytes(os.urandom(4))
    print(f"REINDEX_SEED={seed}")
    return Random(seed)
