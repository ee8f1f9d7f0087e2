"""The connection of collections: its type says which store; a wrong one is refused before it is reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.queries import read_queries
from airflow_reindex.hooks.switch import switch_hook
from sandbox.servers.postgres import Postgres

CONN = "AIRFLOW_CONN_COLLECTIONS_DEFAULT"


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setenv(CONN, json.dumps(fields))


def test_postgres(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres.create_database("hooked")
    # The Postgres provider's own settings are nothing that libpq knows.
    connect(monkeypatch, **postgres.airflow_connection("hooked"), extra={"cursor": "dictcursor", "sslmode": "prefer"})
    store = CollectionHook().store
    assert store.find("nothing") is None
    assert "database 'hooked'" in store.label
    store.close()
    assert CollectionHook().test_connection() == (True, f"{store.label} can be used")


def test_wrong_password(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, **{**postgres.airflow_connection(), "password": "wrong-password"})
    good, text = CollectionHook().test_connection()
    assert not good
    assert "password authentication failed" in text
    assert "wrong-password" not in text


def test_lancedb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, conn_type="lancedb", host=str(tmp_path))
    assert CollectionHook().store.find("nothing") is None


@pytest.mark.parametrize(
    ("conn_id", "fields", "complaint"),
    [
        ("collections_default", {"conn_type": "lancedb"}, "folder or s3"),
        (
            "collections_default",
            {"conn_type": "mysql", "host": "localhost"},
            "has the type 'mysql': collections are reached by one of type postgres or",
        ),
        ("collections_none", {}, "there is no Airflow connection 'collections_none'"),
        ("secret_db", {}, "may not be used"),
    ],
    ids=["LanceDB without a place", "other type", "no such connection", "connection that is not offered"],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, conn_id: str, fields: dict[str, str], complaint: str) -> None:
    connect(monkeypatch, **fields)
    monkeypatch.setenv("AIRFLOW_CONN_SECRET_DB", "{}")
    with pytest.raises(RequestError, match=complaint):
        _ = CollectionHook(conn_id).store


class TestQueries:
    def test_file(self, tmp_path: Path) -> None:
        path = tmp_path / "queries.txt"
        path.write_text("one\n\n two \none\n")
        assert read_queries("top", {"top": {"path": str(path)}}) == ["one", "two"]

    def test_table(self, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
        connect(monkeypatch, **postgres.airflow_connection())
        found = {"conn_id": "collections_default", "sql": "SELECT 'query ' || i FROM generate_series(1, 2) i"}
        assert read_queries("top", {"top": found}) == ["query 1", "query 2"]

    @pytest.mark.parametrize(
        ("definition", "complaint"),
        [
            (None, "there is no query set 'top'; this deployment defines: none"),
            ({"path": "/nowhere/queries.txt"}, "cannot be read"),
            ({"path": "/dev/null"}, "has no queries"),
            ({"sql": "SELECT 1"}, "needs either 'path', or 'conn_id' and 'sql'"),
        ],
    )
    def test_refusals(self, definition: Any, complaint: str) -> None:
        with pytest.raises(RequestError, match=complaint):
            read_queries("top", {"top": definition} if definition else {})


def test_switch_hook_of_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__ON_SWITCH", "builtins.print")
    assert switch_hook(None) is not None
    monkeypatch.setenv("AIRFLOW__REINDEX__ON_SWITCH", "nowhere.at_all")
    with pytest.raises(RequestError, match="names no function"):
        switch_hook(None)
    monkeypatch.delenv("AIRFLOW__REINDEX__ON_SWITCH")
    assert switch_hook(None) is None
