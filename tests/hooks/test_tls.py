"""TLS to real servers: the extra `tls` of the connection encrypts, and a server that cannot be trusted is refused."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import MySQLdb
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.extract.extractor import stream
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.mysql.client import Connect, code_of, connected, query, session
from airflow_reindex.director.mysql.integer_reader import IntegerReader
from airflow_reindex.hooks.databases import database
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.hooks.queries import read_queries
from sandbox.servers.cluster import Sandbox
from sandbox.servers.servers import HOST
from tests.support.build import run_sql
from tests.support.samples import make_plan, tuples

TLS_ERROR = 2026

Reach = Callable[..., Servers]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a certificate authority and of the certificate that it has made for the czar's server."""
    return make_certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def servers(authority: Path, tmp_path_factory: pytest.TempPathFactory, mariadb_template: Path) -> Iterator[Sandbox]:
    """A czar that offers TLS, and a worker that does not."""
    options = {"ssl_cert": "server.pem", "ssl_key": "server.key", "ssl_ca": "ca.pem"}
    sandbox = Sandbox(
        tmp_path_factory.mktemp("tls") / "root",
        workers=1,
        czar_options={option: str(authority / name) for option, name in options.items()},
        template=mariadb_template,
    )
    try:
        yield sandbox.up(owner_pid=os.getpid())
    finally:
        sandbox.destroy()


@pytest.fixture
def reach(servers: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Reach:
    """The servers as the hook reaches them with an extra `tls`, and with extras of the servers' own connections."""

    def make(tls: dict[str, Any] | None, czar: Any = None, worker: Any = None) -> Servers:
        for name, value in servers.connections().items():
            described = json.loads(value)
            if name == "AIRFLOW_CONN_QSERV_DEFAULT":
                described["extra"].update({**({"tls": tls} if tls is not None else {}), **(czar or {})})
            elif worker is not None:
                described["extra"] = worker
            monkeypatch.setenv(name, json.dumps(described))
        return QservHook("qserv_default").servers

    return make


@pytest.mark.parametrize("tls", [None, {}, {"mode": "VERIFY_IDENTITY"}])
def test_the_right_server_is_accepted(reach: Reach, authority: Path, tls: dict[str, str] | None) -> None:
    extra = None if tls is None else {"ca": str(authority / "ca.pem"), **tls}
    assert bool(cipher(reach(extra).czar)) == (tls is not None), "with TLS the connection is encrypted"


def test_server_of_a_foreign_authority_is_refused(reach: Reach, tmp_path: Path) -> None:
    assert refusal(reach({"ca": str(make_certificates(tmp_path) / "ca.pem")}).czar) == TLS_ERROR


@pytest.mark.parametrize("mode", [{}, {"mode": "VERIFY_IDENTITY"}], ids=["an authority alone", "with a mode"])
def test_a_server_without_tls_is_refused_when_servers_are_verified(
    reach: Reach, authority: Path, mode: dict[str, str]
) -> None:
    assert refusal(reach({"ca": str(authority / "ca.pem"), **mode}).workers["worker-1"]) == TLS_ERROR


def test_server_without_tls_is_refused_in_any_mode(reach: Reach) -> None:
    with pytest.raises(RequestError, match="does not encrypt"):
        reach({"mode": "REQUIRED"}).workers["worker-1"]()


ASKING = [
    {"ssl_mode": "REQUIRED"},
    {"ssl_mode": "VERIFY_IDENTITY"},
    {"ssl": {"ca": "{ca}"}, "ssl_mode": "REQUIRED"},
    {"ssl": True},
    {"ssl": {}},
    {"ssl": '{"ca": "{ca}"}', "ssl_mode": "VERIFY_CA"},
]


def filled(extra: dict[str, Any], authority: Path) -> dict[str, Any]:
    """An extra with the path of the authority's certificate."""
    text = json.dumps(extra).replace("{ca}", str(authority / "ca.pem"))
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("extra", ASKING)
def test_a_server_without_tls_is_refused_when_its_own_connection_asks(
    reach: Reach, authority: Path, extra: dict[str, Any]
) -> None:
    connect = reach(None, worker=filled(extra, authority)).workers["worker-1"]
    with pytest.raises((RequestError, MySQLdb.OperationalError)) as caught:
        connect()
    if isinstance(caught.value, MySQLdb.OperationalError):
        assert code_of(caught.value) == TLS_ERROR
    else:
        assert "does not encrypt, but 'ssl' or 'ssl_mode' in its extra asks for it" in str(caught.value)


def test_the_czars_own_connection_is_encrypted_when_it_asks(reach: Reach, authority: Path) -> None:
    assert cipher(reach(None, czar={"ssl": {"ca": str(authority / "ca.pem")}}).czar) != ""


def test_the_form_says_which_server_does_not_encrypt(
    reach: Reach, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(None, czar={"ssl": {"ca": str(authority / "ca.pem")}}, worker={"ssl_mode": "REQUIRED"})
    good, text = QservHook("qserv_default").test_connection()
    assert not good
    assert "worker-1: the server of connection 'qserv_worker_1' does not encrypt" in text
    assert text.startswith("czar: 1")


def test_a_content_connection_that_asks_is_proven(servers: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    described = json.loads(servers.connections()["AIRFLOW_CONN_QSERV_WORKER_1"])
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({**described, "extra": {"ssl_mode": "REQUIRED"}}))
    with pytest.raises(RequestError, match="does not encrypt, but its extra asks for it"):
        database("shop")[1]()
    with pytest.raises(RequestError, match="does not encrypt, but its extra asks for it"):
        read_queries("some", {"some": {"conn_id": "shop", "sql": "SELECT 'a'"}})
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(described))
    assert read_queries("some", {"some": {"conn_id": "shop", "sql": "SELECT 'a'"}}) == ["a"]
    monkeypatch.setenv("AIRFLOW__REINDEX__REQUIRE_TLS", "True")
    with pytest.raises(RequestError, match=r"is in plain text, but .reindex. require_tls is set"):
        database("shop")


@pytest.mark.parametrize("encrypted", [False, True])
def test_rows_are_read_whether_they_are_encrypted_or_not(
    reach: Reach, servers: Sandbox, authority: Path, encrypted: bool
) -> None:
    run_sql(
        servers.czar,
        "CREATE DATABASE IF NOT EXISTS lsst",
        "CREATE OR REPLACE TABLE lsst.Object_7 SELECT seq AS objectId, seq % 9 AS subChunkId FROM mysql.seq_1_to_5000",
    )
    connect = servers.czar.connect
    if encrypted:
        ca = str(authority / "ca.pem")
        server = servers.czar
        connect = partial(
            MySQLdb.connect, host=HOST, port=server.port, user="root", passwd=server.passwords["root"], ssl={"ca": ca}
        )
    assert bool(cipher(connect)) == encrypted
    with closing(IntegerReader(lambda: connected(connect))) as reader:
        rows = [row for some in stream(reader, make_plan(), 7) for row in tuples(some)]
        assert (reader._wire is None) == encrypted, "only bytes in plain text can be read from the socket"
    assert rows == [(i, 7, i % 9) for i in range(1, 5_001)]


def cipher(connect: Connect) -> str:
    """The cipher of a new connection; empty when it is in plain text."""
    with session(connect) as connection:
        ((_, name),) = query(connection, "SHOW STATUS LIKE 'Ssl_cipher'")
    return str(name)


def refusal(connect: Connect) -> int | None:
    """The error's number when no connection comes about."""
    with pytest.raises(MySQLdb.OperationalError) as caught:
        connect()
    return code_of(caught.value)


def make_certificates(folder: Path) -> Path:
    """Make an authority, `ca.pem`, and a server's certificate with its key, `server.pem` and `server.key`."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, server = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "server"))
    own = certificate(authority, authority_key.public_key(), authority)
    own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    issued = certificate(server, server_key.public_key(), authority)
    address = x509.IPAddress(ipaddress.ip_address(HOST))
    issued = issued.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    for name, builder in (("ca.pem", own), ("server.pem", issued)):
        (folder / name).write_bytes(builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    key = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(key)
    return folder


def certificate(subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    """A certificate that is good for a day, not signed yet."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
