"""Certificates are checked."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_reindex.core.failures import RequestError
from sandbox.servers.embedding_server import EmbeddingServer
from tests.vectors.backends.conftest import KEY, MakeModel


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[EmbeddingServer]:
    """The server over HTTPS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with EmbeddingServer({"small": 8}, key=KEY, tls=context) as server:
        yield server


def test_an_unknown_ca_is_refused_at_once(make: MakeModel, secure: EmbeddingServer) -> None:
    with pytest.raises(RequestError, match=r"TLS failed .*self.signed.* the option 'verify'"):
        make(url=secure.url + "/v1").embed(["a"])
    assert secure.counts.requests == 0


def test_a_ca_of_ones_own(make: MakeModel, secure: EmbeddingServer, certificate: Path) -> None:
    assert make(url=secure.url + "/v1", options={"verify": str(certificate)}).embed(["a"]).shape == (1, 8)
    assert make(url=secure.url + "/v1", options={"verify": False}).embed(["a"]).shape == (1, 8)


def test_https_to_a_server_without_tls(make: MakeModel, server: EmbeddingServer) -> None:
    with pytest.raises(RequestError, match="TLS failed"):
        make(url=server.url.replace("http:", "https:") + "/v1").embed(["a"])
