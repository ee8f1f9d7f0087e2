"""Fixtures for all tests: a private Airflow home, set before Airflow is imported, and the sandbox of real servers."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

HOME = Path(tempfile.mkdtemp(prefix="airflow-reindex-tests-"))
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parent / "system" / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__REINDEX__STAGING_URL=str(HOME / "staging"),
)

# An example that takes long on a busy machine is no failure.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

pytest_plugins = ["sandbox.fixtures", "sandbox.pg_fixtures", "tests.fixtures"]


#: Files that take longest: begun first, so that no process works alone in the end.
LONGEST = (
    "test_qserv_contract.py",
    "test_pages.py",
    "test_task_api.py",
    "test_routes.py",
    "test_deployment.py",
    "test_writers.py",
    "test_cli.py",
    "test_memory.py",
    "test_director_failures.py",
    "test_kill_reindex.py",
    "test_kill_czar_load.py",
    "test_director_dag.py",
    "test_collection_dag.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others in their order."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist=loadfile`: each file in one process, and all that need the deployment in the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return "deployment" if needs_deployment(config.rootpath / path) else path

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@cache
def needs_deployment(path: Path) -> bool:
    """Whether tests of a file take the fixture `deployment`, which starts all of Airflow once a process."""
    return "deployment: Deployment" in path.read_text()


def pytest_unconfigure() -> None:
    """Remove the private Airflow home."""
    import shutil

    shutil.rmtree(HOME, ignore_errors=True)
