"""Real servers: starting, stopping, crashing, and who may do what."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import MySQLdb
import pytest

from airflow_reindex.director.mysql.client import query
from sandbox.servers import datadir, processes
from sandbox.servers.cluster import Sandbox
from sandbox.servers.datadir import SandboxError
from sandbox.servers.grants import ACCOUNT_HOSTS, CZAR_GRANTS, Grant, worker_grants
from sandbox.servers.servers import MariaDBServer
from tests.support.build import run_sql
from tests.support.wait import wait_until

PACKAGE_PARENT = Path(datadir.__file__).resolve().parents[2]
pytestmark = pytest.mark.server

# Holds on to a sandbox with an owner until it is killed.
OWNER = """
import os, sys, time
from pathlib import Path
from sandbox.servers.cluster import Sandbox
Sandbox(Path(sys.argv[1]), workers=1).up(owner_pid=os.getpid())
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def own(tmp_path: Path, mariadb_template: Path) -> Iterator[Sandbox]:
    """A sandbox for tests that break it."""
    sandbox = Sandbox(tmp_path / "own", workers=1, czar_options={"max_connections": "37"}, template=mariadb_template)
    try:
        yield sandbox.up(owner_pid=os.getpid())
    finally:
        sandbox.destroy()


def test_servers_answer_on_the_loopback_address_only(sandbox: Sandbox) -> None:
    assert list(sandbox.workers) == ["worker-1", "worker-2"]
    assert len({server.port for server in sandbox.servers}) == 3
    for server in sandbox.servers:
        row = run_sql(server, "SELECT @@port, @@bind_address, @@secure_file_priv, @@local_infile, @@log_bin")[0]
        assert row == (server.port, "127.0.0.1", f"{server.infile_dir}/", 1, 0)


def test_status_tells_what_runs(own: Sandbox) -> None:
    assert all(status.running and status.pid for status in own.status().values())
    own.workers["worker-1"].kill()
    status = own.status()
    assert (status["worker-1"].running, status["worker-1"].pid) == (False, None)
    assert status["czar"].running


def test_a_killed_server_keeps_port_and_data(own: Sandbox) -> None:
    server = own.czar
    run_sql(server, "CREATE TABLE qservMeta.t (a INT) ENGINE=InnoDB", "INSERT INTO qservMeta.t VALUES (42)")
    port, pid = server.port, server.pid
    server.kill()
    assert not server.is_running()
    with pytest.raises(MySQLdb.OperationalError):
        server.connect()
    server.start()
    assert server.port == port
    assert server.pid != pid
    assert run_sql(server, "SELECT a FROM qservMeta.t") == [(42,)]


def test_down_works_with_a_dead_server_and_up_brings_all_back(own: Sandbox) -> None:
    passwords = own.czar.passwords
    own.workers["worker-1"].kill()
    own.down()
    assert not any(status.running for status in own.status().values())
    again = Sandbox.load(own.root)
    assert again.czar.passwords == passwords
    again.up()
    try:
        assert run_sql(again.czar, "SELECT @@max_connections") == [(37,)]
        with contextlib.closing(again.workers["worker-1"].connect("reindex")) as connection:
            assert query(connection, "SELECT 1") == [(1,)]
    finally:
        again.down()


def test_stop_is_a_clean_shutdown(own: Sandbox) -> None:
    own.czar.stop()
    assert "Shutdown complete" in own.czar.error_log.read_text()


def test_a_taken_port_is_left_to_its_owner(own: Sandbox) -> None:
    server = own.czar
    server.stop()
    with contextlib.closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))
        other.listen()
        taken = server.port
        with pytest.raises(SandboxError, match="ddress already in use"):
            server.start()
        assert server.port == taken
        server.start(move=True)
        assert server.port != taken
        assert run_sql(server, "SELECT @@port") == [(server.port,)]


def test_a_server_that_does_not_start_shows_the_end_of_its_log(own: Sandbox) -> None:
    own.czar.stop()
    own.czar.options["no_such_option"] = "1"
    with pytest.raises(SandboxError, match="unknown variable 'no_such_option=1'"):
        own.czar.start()
    assert not own.czar.is_running()
    del own.czar.options["no_such_option"]


def test_a_long_path_gets_a_short_private_socket(own: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / "server"
    server = MariaDBServer("far", folder, template=own.template)
    try:
        server.start()
        short = server.socket
        assert len(os.fsencode(short)) <= datadir.MAX_SOCKET_PATH
        assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
        assert stat.S_ISSOCK(short.stat().st_mode)
    finally:
        server.stop()
    assert not short.parent.exists()


def test_a_foreign_process_is_never_signalled(own: Sandbox) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as foreign:
        try:
            own.czar.stop()
            (own.czar.folder / "pid").write_text(str(foreign.pid))
            assert own.czar.pid is None
            own.czar.kill()
            own.czar.stop()
            processes.end(foreign.pid, "--not-its-argument", grace_seconds=0.1)
            assert foreign.poll() is None
        finally:
            foreign.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_die_with_their_owner(tmp_path: Path, number: signal.Signals) -> None:
    root = tmp_path / "owned"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    command = [sys.executable, "-c", OWNER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "up\n"
            sandbox = Sandbox.load(root)
            assert all(status.running for status in sandbox.status().values())
            owner.send_signal(number)
            owner.wait()
            wait_until(lambda: not any(status.running for status in sandbox.status().values()))
        finally:
            owner.kill()
            Sandbox.load(root).destroy()
    assert not root.exists()


def test_servers_without_an_owner_stay(tmp_path: Path) -> None:
    root = tmp_path / "free"
    code = OWNER.replace("owner_pid=os.getpid()", "").replace("time.sleep(600)", "")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    try:
        subprocess.run([sys.executable, "-c", code, str(root)], env=environment, check=True, capture_output=True)
        time.sleep(0.5)
        assert all(status.running for status in Sandbox.load(root).status().values())
    finally:
        Sandbox.load(root).destroy()


def test_the_account_has_exactly_its_grants_on_the_czar(sandbox: Sandbox) -> None:
    for host in ACCOUNT_HOSTS:
        shown = {str(row[0]) for row in run_sql(sandbox.czar, f"SHOW GRANTS FOR 'reindex'@'{host}'")}
        assert {without_password(text) for text in shown} == {as_shown(grant, host) for grant in CZAR_GRANTS}


def test_the_account_has_nothing_on_a_worker_without_a_catalog(own: Sandbox) -> None:
    shown = run_sql(own.workers["worker-1"], "SHOW GRANTS FOR 'reindex'@'127.0.0.1'")
    assert [without_password(str(row[0])) for row in shown] == ["GRANT USAGE ON *.* TO `reindex`@`127.0.0.1`"]


def as_shown(grant: Grant, host: str) -> str:
    return grant.statement(host).replace("'", "`")


def without_password(text: str) -> str:
    return re.sub(r" IDENTIFIED BY PASSWORD '.*'", "", text)


def test_a_database_grant_does_not_match_like_a_pattern() -> None:
    assert worker_grants("sky_1")[0].scope == r"`sky\_1`.*"


def test_nobody_gets_in_without_a_password(sandbox: Sandbox) -> None:
    for server in sandbox.servers:
        accounts = run_sql(server, "SELECT user, host FROM mysql.user WHERE user <> 'mariadb.sys'")
        assert set(accounts) == {(user, host) for user in ("root", "reindex") for host in ("localhost", "127.0.0.1")}
        for user in ("root", "reindex", ""):
            for where in ({"host": "127.0.0.1", "port": server.port}, {"unix_socket": str(server.socket)}):
                with pytest.raises(MySQLdb.OperationalError, match="Access denied"):
                    MySQLdb.connect(user=user, password="", **where)


def test_the_account_may_do_what_a_build_needs(own: Sandbox) -> None:
    with contextlib.closing(own.czar.connect("reindex")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE airflow_reindex")
        cursor.execute("CREATE TABLE airflow_reindex.note (a INT)")
        cursor.execute("CREATE TABLE qservMeta.aside (a INT)")
        path = own.czar.infile_dir / "rows.txt"
        datadir.write_private(path, "1\n2\n")
        assert cursor.execute("LOAD DATA INFILE %s INTO TABLE qservMeta.aside", (str(path),)) == 2
        cursor.execute("RENAME TABLE qservMeta.aside TO qservMeta.done")
        cursor.execute("DROP DATABASE airflow_reindex")
        for refused in (
            "CREATE DATABASE other",
            "CREATE DATABASE airflowXreindex",
            "DELETE FROM qservReplica.config_worker",
            "SELECT * FROM mysql.user",
            "LOAD DATA INFILE '/etc/passwd' INTO TABLE qservMeta.done",
        ):
            with pytest.raises(MySQLdb.OperationalError, match=r"denied|secure-file-priv|secure_file_priv"):
                cursor.execute(refused)
        cursor.execute("DROP TABLE qservMeta.done")


def test_passwords_are_in_private_files_only(sandbox: Sandbox) -> None:
    secrets = {password for server in sandbox.servers for password in server.passwords.values()}
    assert len(secrets) == 6
    lines = [" ".join(processes.command_line(pid)) for pid in processes.find(sandbox.czar._mark)]
    assert len(lines) == 1
    everything = subprocess.run(["ps", "-ww", "-e", "-o", "command="], capture_output=True, text=True, check=True)
    assert "my.cnf" in everything.stdout
    assert not any(secret in everything.stdout for secret in secrets)
    holders = set()
    for path in sandbox.root.rglob("*"):
        if (
            path.is_file()
            and path.stat().st_size < 2**24
            and any(secret.encode() in path.read_bytes() for secret in secrets)
        ):
            holders.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert holders == {"state.json"}
    assert stat.S_IMODE(sandbox.root.stat().st_mode) == 0o700


def test_connections_work(sandbox: Sandbox) -> None:
    variables = {name: json.loads(text) for name, text in sandbox.connections().items()}
    assert set(variables) == {
        "AIRFLOW_CONN_QSERV_DEFAULT",
        "AIRFLOW_CONN_QSERV_WORKER_1",
        "AIRFLOW_CONN_QSERV_WORKER_2",
    }
    czar = variables["AIRFLOW_CONN_QSERV_DEFAULT"]
    assert czar["conn_type"] == "qserv"
    assert czar["extra"] == {
        "workers": {"worker-1": "qserv_worker_1", "worker-2": "qserv_worker_2"},
        "catalog": "replication",
        "staging_dir": str(sandbox.czar.infile_dir),
        "server_staging_dir": str(sandbox.czar.infile_dir),
        "data_dir": str(sandbox.czar.data_dir),
    }
    for values in variables.values():
        with contextlib.closing(
            MySQLdb.connect(
                host=values["host"],
                port=values["port"],
                user=values["login"],
                password=values["password"],
                database=values.get("schema", ""),
            )
        ) as connection:
            assert connection.get_server_info()
    assert json.loads(sandbox.connections("scan")["AIRFLOW_CONN_QSERV_DEFAULT"])["extra"]["catalog"] == "scan"
    with pytest.raises(ValueError, match="catalog must be one of"):
        sandbox.connections("other")


def test_destroy_leaves_foreign_files(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "root", workers=1)
    with sandbox:
        (sandbox.root / "mine.txt").write_text("keep")
    sandbox.destroy()
    assert [path.name for path in sandbox.root.iterdir()] == ["mine.txt"]


def test_loading_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no sandbox"):
        Sandbox.load(tmp_path)


def test_a_name_with_a_line_break_cannot_enter_the_option_file() -> None:
    assert datadir.quoted("a b#c") == '"a b#c"'
    with pytest.raises(ValueError, match="option file"):
        datadir.quoted("x\ninit_file=/tmp/y")
