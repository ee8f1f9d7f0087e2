"""The connection type `qserv`: what it accepts, what it says, and how it reaches the servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import MySQLdb
import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.mysql.client import query, session
from airflow_reindex.hooks.qserv import QservHook, ServerHook
from sandbox.servers.cluster import Sandbox


@pytest.fixture
def connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**changes: Any) -> QservHook:
        for name, value in sandbox.connections().items():
            described = json.loads(value)
            if name == "AIRFLOW_CONN_QSERV_DEFAULT":
                described["extra"].update(changes.pop("extra", {}))
                described.update(changes)
            monkeypatch.setenv(name, json.dumps(described))
        return QservHook("qserv_default")

    return make


def test_all_servers_are_tested(connect: Any, sandbox: Sandbox) -> None:
    good, message = connect().test_connection()
    assert good, message
    assert [line.split(":")[0] for line in message.splitlines()] == ["czar", "worker-1", "worker-2"]


def test_the_server_that_does_not_answer_is_named(connect: Any, sandbox: Sandbox) -> None:
    hook = connect()
    sandbox.workers["worker-2"].kill()
    try:
        good, message = hook.test_connection()
    finally:
        sandbox.workers["worker-2"].start()
    assert not good
    assert "worker-2: error: Can't connect" in message
    assert "worker-1: 1" in message, "the others are tested all the same"


def test_defaults(connect: Any) -> None:
    servers = connect(schema=None).servers
    assert (servers.index_database, servers.work_database) == ("qservMeta", "airflow_reindex")
    assert (servers.catalog, servers.replication_schema) == ("replication", "qservReplica")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conn_type": "mysql"}, "has the type 'mysql', not 'qserv'"),
        ({"extra": {"workers": None}}, "names no workers"),
        ({"extra": {"workers": "[1]"}}, "'workers' in the extra .* must be a JSON object"),
        ({"extra": {"workers": {"w": "qserv_nobody"}}}, "there is no Airflow connection 'qserv_nobody'"),
        ({"extra": {"catalog": "guess"}}, "must be 'replication' or 'scan', not 'guess'"),
        ({"extra": {"tls": "nonsense"}}, "'tls' in the extra .* must be a JSON object"),
    ],
)
def test_malformed_connections(connect: Any, changes: dict[str, Any], words: str) -> None:
    hook = connect(**changes)
    with pytest.raises(RequestError, match=words):
        hook.servers  # noqa: B018
    good, message = connect(**changes).test_connection()
    assert not good
    assert "qserv" in message


def test_only_allowed_connections(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connect()
    with pytest.raises(RequestError, match=r"'mysql_default' may not be used: this deployment allows qserv_\*"):
        QservHook("mysql_default").servers  # noqa: B018
    monkeypatch.setenv("AIRFLOW__REINDEX__ALLOWED_CONN_IDS", "sky_*")
    with pytest.raises(RequestError, match="this deployment allows sky_"):
        QservHook("qserv_default").servers  # noqa: B018


def test_workers_may_be_a_json_text(connect: Any) -> None:
    hook = connect(extra={"workers": '{"worker-1": "qserv_worker_1"}'})
    assert list(hook.servers.workers) == ["worker-1"]


def test_tls_is_handed_to_every_server(connect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ca", "key")}
    for path in files.values():
        Path(path).touch()
    servers = connect(extra={"tls": {**files, "cert": ""}}).servers
    seen: list[dict[str, Any]] = []

    def refuse(**config: Any) -> None:
        seen.append(config)
        raise MySQLdb.OperationalError(2026, "TLS error")

    monkeypatch.setattr("MySQLdb.connect", refuse)
    for reach in (servers.czar, *servers.workers.values()):
        with pytest.raises(MySQLdb.OperationalError):
            reach()
    assert [config["ssl_mode"] for config in seen] == ["VERIFY_IDENTITY"] * 3
    assert [config["ssl"] for config in seen] == [files] * 3


def test_connecting_has_a_time_out(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    servers = connect().servers
    monkeypatch.setattr("MySQLdb.connect", lambda **config: seen.append(config))
    servers.czar()
    assert seen[0]["connect_timeout"] == 10
    assert seen[0]["local_infile"] == 1
    assert hasattr(ServerHook.__mro__[1], "_get_conn_config_mysql_client"), "the provider's method is still there"


def test_sessions_are_strict(connect: Any) -> None:
    with session(connect().servers.czar) as czar:
        mode, wait = query(czar, "SELECT @@sql_mode, @@lock_wait_timeout")[0]
    assert "STRICT_ALL_TABLES" in mode
    assert wait == 10


def test_form_tests_a_copy_with_a_random_id(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sandbox.connections().items():
        monkeypatch.setenv(name.replace("QSERV_DEFAULT", "ABCDEFGH"), value)
    good, text = QservHook("aBcDeFgH").test_connection()
    assert good, text
