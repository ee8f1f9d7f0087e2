"""Settings of TLS that are not understood are refused by name: nobody takes a connection in plain text for another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks import encryption
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.embedding_model import EmbeddingModelHook
from airflow_reindex.hooks.mysql_tls import MODES, of_extra, of_field
from airflow_reindex.hooks.qserv import QservHook

LOGIN = {"host": "db.example.org", "login": "user", "password": "secret"}
#: An extra, and what its refusal says.
UNKNOWN = [
    ({"ssl-mode": "REQUIRED"}, "'ssl-mode' in the extra .* looks like a setting of TLS, but nobody reads it"),
    ({"sslmode": "require"}, "'sslmode' in the extra"),
    ({"SSL_MODE": "REQUIRED"}, "'SSL_MODE' in the extra"),
    ({"required": True}, "'required' in the extra"),
    ({"use_tls": "1"}, "'use_tls' in the extra"),
    ({"encryption": "on"}, "'encryption' in the extra"),
    ({"security": "VERIFY_CA"}, "'security' in the extra"),
    ({"ca": "/etc/ca.pem"}, "'ca' in the extra"),
    ({"ssl_ca": "/etc/ca.pem"}, "'ssl_ca' in the extra"),
]
WRONG = [
    ({"ssl_mode": "required"}, "'ssl_mode' .* must be one of .*REQUIRED.* .in capitals., not 'required'"),
    ({"ssl_mode": True}, "'ssl_mode' .* must be one of"),
    ({"ssl_mode": "REQUIRE"}, "not 'REQUIRE'"),
    ({"ssl": "REQUIRED"}, "'ssl' .* must be a JSON object or true, not 'REQUIRED'"),
    ({"ssl": 1}, "'ssl' .* must be a JSON object or true, not 1"),
    ({"ssl": ["ca"]}, "must be a JSON object or true"),
    ({"ssl": {"required": True}}, "has the field 'required', which nobody reads"),
    ({"ssl": {"ssl_ca": "/etc/ca.pem"}}, "has the field 'ssl_ca'"),
    ({"ssl": {"ca": 7}}, "'ca' must be a text"),
    ({"ssl": {"ca": "/nonexistent"}}, "'ca' is '/nonexistent', which is not there"),
    ({"ssl": '{"key": "/nonexistent"}'}, "'key' is '/nonexistent'"),
    ({"ssl": {"cipher": "x"}, "ssl_mode": "PREFERRED"}, "asks for TLS, but 'ssl_mode' is PREFERRED"),
]


@pytest.mark.parametrize(("extra", "said"), UNKNOWN + WRONG)
@pytest.mark.parametrize("whose", ["worker", "czar"])
def test_settings_of_mysql_connections(
    monkeypatch: pytest.MonkeyPatch, whose: str, extra: dict[str, Any], said: str
) -> None:
    czar: dict[str, Any] = {"conn_type": "qserv", **LOGIN, "extra": {"workers": {"w": "qserv_w"}}}
    worker: dict[str, Any] = {"conn_type": "mysql", **LOGIN, "extra": {}}
    (worker if whose == "worker" else czar)["extra"].update(extra)
    monkeypatch.setenv("AIRFLOW_CONN_QSERV_DEFAULT", json.dumps(czar))
    monkeypatch.setenv("AIRFLOW_CONN_QSERV_W", json.dumps(worker))
    with pytest.raises(RequestError, match=said) as caught:
        QservHook("qserv_default").servers  # noqa: B018
    assert ("qserv_w" if whose == "worker" else "qserv_default") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert QservHook("qserv_default").test_connection()[0] is False


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({"mode": "required"}, "'mode' of 'tls' .* must be one of REQUIRED"),
        ({"mode": "PREFERRED"}, "'mode' of 'tls' .* must be one of REQUIRED"),
        ({"ssl_ca": "x"}, "has the field 'ssl_ca'"),
        ({"ca": "/nonexistent"}, "'ca' is '/nonexistent'"),
    ],
)
def test_the_field_tls(tls: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        of_field("qserv_default", tls)


def test_what_asks_and_what_does_not(tmp_path: Any) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    for extra in ({}, {"ssl": None}, {"ssl": ""}, {"ssl": False, "ssl_mode": ""}, {"charset": "utf8", "cursor": "x"}):
        assert of_extra("c", extra) is None
    for mode in MODES:
        found = of_extra("c", {"ssl_mode": mode})
        assert found is not None
        assert found.asked is (mode not in ("DISABLED", "PREFERRED"))
    for value in (True, "true", {}, "{}", {"cipher": "AES256-SHA"}):
        found = of_extra("c", {"ssl": value})
        assert found is not None
        assert found.mode == "REQUIRED"
    found = of_extra("c", {"ssl": json.dumps({"ca": str(ca)})})
    assert found is not None
    assert found.options == {"ssl": {"ca": str(ca)}, "ssl_mode": "VERIFY_IDENTITY"}


def postgres(monkeypatch: pytest.MonkeyPatch, **extra: Any) -> Any:
    fields = {"conn_type": "postgres", **LOGIN, "schema": "vectors", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_COLLECTIONS_DEFAULT", json.dumps(fields))
    return CollectionHook("collections_default").store


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"ssl_mode": "require"}, "'ssl_mode' in the extra of the connection 'collections_default' looks like"),
        ({"ssl": True}, "'ssl' in the extra"),
        ({"requiressl": 1}, "'requiressl' in the extra"),
        ({"sslmode": "REQUIRED"}, "'sslmode' .* must be one of .*, not 'REQUIRED'"),
    ],
)
def test_settings_of_postgresql(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        postgres(monkeypatch, **extra)
    postgres(monkeypatch, sslmode="require", options="-c x=y")


def test_an_authority_means_that_the_server_is_verified() -> None:
    assert encryption.sslmode("c", {"sslrootcert": "/ca.pem"}) == "verify-full"
    assert encryption.sslmode("c", {"sslcert": "/own.pem"}) == "require"
    assert encryption.sslmode("c", {"sslrootcert": "/ca.pem", "sslmode": "prefer"}) == "prefer"
    assert encryption.sslmode("c", {}) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": "http://m.example.org", "schema": "https"}, "says http, but 'schema' https"),
        ({"host": "http://m.example.org", "extra": {"dimensions": 4, "use_tls": True}}, "'use_tls' in the extra"),
    ],
)
def test_settings_of_models(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: str) -> None:
    described = {"conn_type": "embedding_model", "extra": {"dimensions": 4}, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL", json.dumps(described))
    with pytest.raises(RequestError, match=said):
        EmbeddingModelHook("model").spec  # noqa: B018


def test_settings_of_object_stores() -> None:
    endpoint = {"endpoint_url": "http://store.example.org"}
    for extra in ({"verify": "/etc/ca.pem"}, {"use_ssl": True}):
        with pytest.raises(RequestError, match="asks for TLS, but its endpoint is http://"):
            encryption.check_store("store", {**endpoint, **extra})
        with pytest.raises(RequestError, match="asks for TLS, but its endpoint is http://"):
            encryption.check_store("store", {"service_config": {"s3": endpoint}, **extra})
        encryption.check_store("store", {"endpoint_url": "https://store.example.org", **extra})
    encryption.check_store("store", {**endpoint, "verify": False})
