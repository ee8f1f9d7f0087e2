"""A pytest plugin: a private PostgreSQL server with pgvector for the whole test session.

Load it by ``pytest_plugins = ["sandbox.pg_fixtures"]``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sandbox.servers.postgres import UNSAFE_OPTIONS, Postgres


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running server; it dies with the test process, however that ends."""
    server = Postgres(tmp_path_factory.mktemp("postgres") / "root", UNSAFE_OPTIONS, temporary=True)
    try:
        yield server.up(owner_pid=os.getpid())
    finally:
        server.destroy()
