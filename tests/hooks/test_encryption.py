"""`[reindex] require_tls`: no kind of connection goes over a network in plain text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.embedding_model import EmbeddingModelHook
from airflow_reindex.hooks.loaders import make_loader
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.hooks.staging import open_folder
from sandbox.servers.cluster import Sandbox

REFUSED = r"is in plain text, but .reindex. require_tls is set"
STORE = {"conn_type": "aws", "login": "key", "password": "secret"}
MODEL = {"conn_type": "embedding_model"}
POSTGRES = {"conn_type": "postgres", "login": "user", "password": "secret", "schema": "vectors"}


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set or unset the rule, and a connection."""

    def apply(rule: bool, conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv("AIRFLOW__REINDEX__REQUIRE_TLS", str(rule))
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return apply


def reach(kind: str) -> Any:
    """Use a connection as a task does."""
    uses: dict[str, Callable[[], Any]] = {
        "qserv": lambda: QservHook("qserv_default").servers,
        "collections": lambda: CollectionHook("collections_default").store,
        "model": lambda: EmbeddingModelHook("model").spec,
        "staging": lambda: open_folder("s3://store@bucket/staging"),
        "content": lambda: make_loader("files", {"files": {"kind": "s3", "aws_conn_id": "store", "bucket": "b"}}),
    }
    return uses[kind]()


@pytest.mark.parametrize(
    ("kind", "conn_id", "fields"),
    [
        ("collections", "collections_default", {**POSTGRES, "host": "db.example.org"}),
        ("collections", "collections_default", {**POSTGRES, "host": "db.example.org", "extra": {"sslmode": "prefer"}}),
        ("model", "model", {**MODEL, "host": "http://models.example.org", "extra": {"dimensions": 4}}),
        ("staging", "store", {**STORE, "extra": {"endpoint_url": "http://store.example.org"}}),
        ("staging", "store", {**STORE, "extra": {"service_config": {"s3": {"endpoint_url": "HTTP://x.org"}}}}),
        ("content", "store", {**STORE, "extra": {"endpoint_url": "http://store.example.org"}}),
    ],
)
def test_plain_text_is_refused(setting: Any, kind: str, conn_id: str, fields: dict[str, Any]) -> None:
    setting(True, conn_id, **fields)
    with pytest.raises(RequestError, match=REFUSED) as caught:
        reach(kind)
    assert "secret" not in str(caught.value)
    setting(False, conn_id, **fields)
    reach(kind)


@pytest.mark.parametrize(
    ("kind", "conn_id", "fields"),
    [
        ("collections", "collections_default", {**POSTGRES, "host": "/run/postgresql"}),
        ("collections", "collections_default", {**POSTGRES, "host": "db", "extra": {"sslmode": "verify-full"}}),
        ("model", "model", {**MODEL, "host": "https://models.example.org", "extra": {"dimensions": 4}}),
        ("staging", "store", STORE),
        ("staging", "store", {**STORE, "extra": {"endpoint_url": "https://store.example.org"}}),
    ],
)
def test_encrypted_ones_and_local_sockets_are_not(
    setting: Any, kind: str, conn_id: str, fields: dict[str, Any]
) -> None:
    setting(True, conn_id, **fields)
    reach(kind)


def test_qserv(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sandbox.connections().items():
        monkeypatch.setenv(name, value)
    assert reach("qserv").czar
    monkeypatch.setenv("AIRFLOW__REINDEX__REQUIRE_TLS", "True")
    with pytest.raises(RequestError, match=REFUSED):
        reach("qserv")


def test_a_setting_that_asks_for_tls_is_not_believed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__REQUIRE_TLS", "True")
    for name, value in sandbox.connections().items():
        described = json.loads(value)
        # The client's library goes on in plain text when the server has no TLS.
        described["extra"] = {**described.get("extra", {}), "ssl_mode": "PREFERRED"}
        monkeypatch.setenv(name, json.dumps(described))
    with pytest.raises(RequestError, match=r"does not encrypt, but .reindex. require_tls is set"):
        reach("qserv").czar()
