"""Fixtures for all tests: a private Airflow home, set before Airflow is imported, and the sandbox of real servers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="airflow-reindex-tests-"))
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parent / "system" / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__REINDEX__STAGING_URL=str(HOME / "staging"),
)

pytest_plugins = ["airflow_reindex.sandbox.fixtures", "airflow_reindex.sandbox.pg_fixtures", "tests.fixtures"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file run in one process, as they share fixtures; those of the deployment share one over files."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("deployment" if "deployment" in names else str(item.path)))


def pytest_unconfigure() -> None:
    """Remove the private Airflow home."""
    import shutil

    shutil.rmtree(HOME, ignore_errors=True)
