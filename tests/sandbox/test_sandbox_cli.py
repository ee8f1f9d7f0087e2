"""The command line, from nothing to nothing."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from sandbox.catalog.catalog import CatalogSpec
from sandbox.cli import DAGS, build_parser, main
from sandbox.servers.cluster import Sandbox


@pytest.mark.server
def test_a_whole_life(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "box"
    where = ["--root", str(root)]
    try:
        assert main(["up", *where, "--czar-option", "max_connections=41", "--catalog", "scan"]) == 0
        assert main(["status", *where]) == 0
        sandbox = Sandbox.load(root)
        with sandbox.czar.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@max_connections")
            assert cursor.fetchone() == (41,)
        faults = ["--missing", "1", "--null-keys", "2", "--duplicates-within", "1", "--no-sub-chunk", "1"]
        small = ["--rows", "500", "--chunks", "12", "--duplicates-across", "1", "--not-published"]
        assert main(["catalog", *where, *small, *faults, "--down", "worker-2"]) == 0
        assert main(["status", *where]) == 1
        assert {name for name, status in sandbox.status().items() if not status.running} == {"worker-2"}
        check_connections(root / "connections.env", sandbox)
        assert main(["down", *where, "--destroy"]) == 0
    finally:
        Sandbox(root).destroy()
    assert not root.exists()
    printed = capsys.readouterr().out
    for text in (
        "sky.Object: 500 rows in 12 chunks",
        "is missing on",
        "is twice in",
        "worker-2 was killed",
    ):
        assert text in printed
    assert not any(password in printed for server in sandbox.servers for password in server.passwords.values())


def check_connections(path: Path, sandbox: Sandbox) -> None:
    """A shell that sources the file gets the connections."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    script = f'. {shlex.quote(str(path))}; printf %s "$AIRFLOW_CONN_QSERV_DEFAULT"'
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == json.loads(sandbox.connections("scan")["AIRFLOW_CONN_QSERV_DEFAULT"])


def test_no_server_starts_in_a_unit_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--root", str(tmp_path / "box")]) == 1
    assert "no server may start in tests/sandbox/test_sandbox_cli.py" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["down", "status", "catalog"])
def test_without_a_sandbox_there_is_a_plain_error(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--root", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: there is no sandbox in")


def test_a_wrong_option_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--root", str(tmp_path / "none"), "--czar-option", "max connections"]) == 1
    assert "NAME=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_catalog_command_has_the_defaults_of_the_spec() -> None:
    options = build_parser().parse_args(["catalog"])
    chosen = {field.name: getattr(options, field.name) for field in fields(CatalogSpec) if field.name in options}
    assert CatalogSpec(**chosen) == CatalogSpec()
    options = build_parser().parse_args(["catalog", "--not-unique", "--missing-everywhere"])
    assert (options.unique, options.missing_everywhere) == (False, True)


def test_the_demonstration_finds_the_dags() -> None:
    assert (DAGS / "build_director_index.py").is_file()
