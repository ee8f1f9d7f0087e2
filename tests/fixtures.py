"""Builds that run step by step, without Airflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.servers.cluster import Sandbox
from tests.support.build import Build


@pytest.fixture
def build(sandbox: Sandbox, tmp_path: Path) -> Callable[..., Build]:
    """A factory of builds in the session's sandbox: `build("sky_1", rebuild=1, run_id="second")`."""

    def make(database: str, *, run_id: str = "run", **params: object) -> Build:
        return Build(sandbox, tmp_path / "staging", database, run_id, params)

    return make
