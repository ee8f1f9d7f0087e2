"""Fixtures for all tests: a private Airflow home, set before Airflow is imported, and the sandbox of real servers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sandbox.servers.datadir import NO_SERVERS
from tests.support.durations import FILE, ROOT, Recorder, longest_first

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write {FILE.relative_to(ROOT)}")


def pytest_configure(config: pytest.Config) -> None:
    """Only where the reports of all processes of pytest-xdist arrive."""
    if config.getoption("record_durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


#: Fixtures that start MariaDB, PostgreSQL or a whole deployment; what takes them, however indirectly, is no unit test.
SERVERS = {"mariadb_template", "postgres", "mortal", "cluster"}
SYSTEM = Path(__file__).parent / "system"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. Mark each test by what it needs; what starts servers by other means says so itself."""
    longest_first(items)
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if item.path.is_relative_to(SYSTEM):
            item.add_marker("system")
        if not any(map(item.get_closest_marker, ("server", "system", "browser", "database", "scale"))):
            item.add_marker("unit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A unit test, and any program that it runs, fails when it starts a server."""
    if item.get_closest_marker("unit"):
        os.environ[NO_SERVERS] = item.nodeid
    try:
        return (yield)
    finally:
        os.environ.pop(NO_SERVERS, None)


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
