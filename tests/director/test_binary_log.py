"""A build with and without the czar's binary log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks.qserv import QservHook
from sandbox.catalog.catalog import CatalogSpec, generate, truth
from sandbox.servers import grants
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, assert_same, run_sql
from tests.support.claims import finish_whole

SPEC = CatalogSpec(rows=2_000, chunks=10)


@pytest.fixture(scope="module")
def logging(tmp_path_factory: pytest.TempPathFactory, mariadb_template: Path) -> Iterator[Sandbox]:
    """Servers whose czar writes a binary log."""
    options = {"log_bin": "binlog", "server_id": "1", "binlog_format": "ROW"}
    root = tmp_path_factory.mktemp("binlog") / "root"
    sandbox = Sandbox(root, workers=1, czar_options=options, template=mariadb_template)
    try:
        sandbox.up(owner_pid=os.getpid())
        generate(sandbox, SPEC)
        yield sandbox
    finally:
        sandbox.destroy()


def written(sandbox: Sandbox) -> int:
    """How many bytes the binary log has."""
    run_sql(sandbox.czar, "DO 0")
    return sum(int(row[1]) for row in run_sql(sandbox.czar, "SHOW BINARY LOGS"))


def build(sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch, run_id: str, **extra: object) -> Build:
    """A build that reaches its servers by the connection."""
    for name, value in sandbox.connections().items():
        described = json.loads(value)
        if name == "AIRFLOW_CONN_QSERV_DEFAULT":
            described["extra"].update(extra)
        monkeypatch.setenv(name, json.dumps(described))
    made = Build(sandbox, folder, SPEC.database, run_id, {"rebuild": 1})
    made.servers = QservHook("qserv_default").servers
    return made


def test_the_setting(logging: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(logging)
    logged = build(logging, tmp_path, monkeypatch, "logged")
    finish_whole(logged)
    grown = written(logging) - before
    assert grown > SPEC.rows * 16, "a row's key and chunk are in it"

    refused = build(logging, tmp_path, monkeypatch, "refused", binary_log=0)
    with pytest.raises(RequestError, match=r"may not work without the binary log.*GRANT BINLOG ADMIN"):
        refused.servers.czar()

    for host in grants.ACCOUNT_HOSTS:
        run_sql(logging.czar, f"GRANT BINLOG ADMIN ON *.* TO '{grants.ACCOUNT}'@'{host}'")
    before = written(logging)
    silent = build(logging, tmp_path, monkeypatch, "silent", binary_log=0)
    finish_whole(silent)
    assert written(logging) == before
    assert_same(silent.index(), truth(SPEC).index_rows())
