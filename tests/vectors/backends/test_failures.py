"""What goes wrong on the way to a server: which error, after how many tries, and what it says."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.vectors.embedding.backends import http
from airflow_reindex.vectors.model.embedding_model import SuspectError
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.vectors.backends.conftest import KEY, MakeModel


@pytest.mark.parametrize("backend", ["openai", "kserve"])
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 529])
def test_busy_servers_are_asked_again(make: MakeModel, server: EmbeddingServer, backend: str, status: int) -> None:
    server.faults = [Fault(status=status, times=4)]
    assert make(backend).embed(["a"]).shape == (1, 8)
    assert server.counts.requests == 5


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_server_that_stays_busy(make: MakeModel, server: EmbeddingServer, status: int) -> None:
    server.faults = [Fault(status=status)]
    with pytest.raises(
        TransientError, match=f"model 'model-1' at http://127.*/embeddings answered {status}: "
    ) as caught:
        make().embed(["a"])
    assert not isinstance(caught.value, SuspectError)
    assert server.counts.requests == http.TRIES


def test_a_500_makes_the_texts_suspect(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault("poison", status=500, body="CUDA error")]
    model = make()
    with pytest.raises(SuspectError, match="answered 500: CUDA error"):
        model.embed(["good", "poison"])
    assert server.counts.requests == http.SUSPECT_TRIES
    assert model.embed(["good"]).shape == (1, 8)
    server.faults = [Fault("poison", status=500, times=2)]
    assert model.embed(["good", "poison"]).shape == (2, 8)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_texts_are_not_sent_again(make: MakeModel, server: EmbeddingServer, status: int) -> None:
    server.faults = [Fault("long", status=status, body="maximum context length is 512 tokens")]
    with pytest.raises(DataError, match=f"answered {status}: maximum context length"):
        make().embed(["good", "long"])
    assert server.counts.requests == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 415, 418, 501])
def test_wrong_configuration(make: MakeModel, server: EmbeddingServer, status: int) -> None:
    server.faults = [Fault(status=status)]
    with pytest.raises(RequestError, match=f"answered {status}"):
        make().embed(["a"])
    assert server.counts.requests == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, '{"error": {"param": "model", "message": "no such model"}}'),
        (400, '{"error": {"code": "model_not_found"}}'),
        (400, '{"error": {"param": "dimensions"}}'),
        (429, '{"error": {"code": "insufficient_quota"}}'),
    ],
)
def test_what_openai_says_about_the_configuration(
    make: MakeModel, server: EmbeddingServer, status: int, body: str
) -> None:
    server.faults = [Fault(status=status, body=body)]
    with pytest.raises(RequestError):
        make().embed(["a"])
    assert server.counts.requests == 1


@pytest.mark.parametrize("backend", ["openai", "kserve"])
def test_unknown_models_and_paths(make: MakeModel, server: EmbeddingServer, backend: str) -> None:
    with pytest.raises(RequestError, match=r"404.*is a path such as /v1 missing"):
        make(backend, name="other").embed(["a"])
    with pytest.raises(RequestError, match=r"at http://127.0.0.1:\d+/nowhere/.* answered 404"):
        make(backend, url=server.url + "/nowhere").embed(["a"])


def test_retry_after_in_seconds(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault(status=429, headers={"Retry-After": "0.3"}, times=1)]
    begun = time.monotonic()
    make().embed(["a"])
    assert 0.3 <= time.monotonic() - begun < 5


def test_retry_after_as_a_date(make: MakeModel, server: EmbeddingServer) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.faults = [Fault(status=503, headers={"Retry-After": later}, times=1)]
    begun = time.monotonic()
    make().embed(["a"])
    assert 0.9 <= time.monotonic() - begun < 10


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("soon", None), ("-1", 0.0), ("7", 7.0), ("nan", None)])
def test_retry_after_that_makes_no_sense(value: str | None, seconds: float | None) -> None:
    assert http._retry_after(value) == seconds


def test_long_waits_are_left_to_the_task(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(TransientError, match="It asks to wait 3600 s"):
        make().embed(["a"])
    assert server.counts.requests == 1


def test_tries_end_with_the_time(make: MakeModel, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_SECONDS", 0.2)
    server.faults = [Fault(status=429, headers={"Retry-After": "30"})]
    with pytest.raises(TransientError):
        make().embed(["a"])
    assert server.counts.requests == 1


def test_time_outs(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault("hangs", delay=0.7)]
    model = make(timeout=0.25)
    with pytest.raises(SuspectError, match=r"did not answer within 0\.25 s"):
        model.embed(["hangs"])
    assert server.counts.requests == http.SUSPECT_TRIES
    assert model.embed(["fine"]).shape == (1, 8)


def test_dropped_connections(make: MakeModel, server: EmbeddingServer) -> None:
    model = make()
    server.faults = [Fault(drop=True, times=2)]
    assert model.embed(["a"]).shape == (1, 8)
    server.faults = [Fault(drop=True)]
    with pytest.raises(SuspectError, match="dropped the connection"):
        model.embed(["a"])


def test_a_server_that_is_away_and_comes_back(make: MakeModel, server: EmbeddingServer) -> None:
    model = make()
    model.embed(["a"])
    server.close()
    with pytest.raises(TransientError, match="cannot be reached: ConnectError") as caught:
        model.embed(["b"])
    assert not isinstance(caught.value, SuspectError)
    with EmbeddingServer({"small": 8}, port=server.port):
        assert model.embed(["b"]).shape == (1, 8)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (socket.EAI_NONAME, RequestError, "its host is unknown"),
        (socket.EAI_AGAIN, TransientError, "cannot be reached"),
    ],
)
def test_names_of_hosts(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], words: str
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(number, "scripted")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(kind, match=words):
        make(url="http://embeddings.example/v1").embed(["a"])


def test_redirects_are_not_followed(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault(status=307, headers={"Location": "https://elsewhere.example/v1?token=abc"})]
    with pytest.raises(RequestError, match=r"redirects to https://elsewhere.example/v1, which is not followed"):
        make().embed(["a"])
    assert server.counts.requests == 1


def test_web_pages(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault(body="<!doctype html><title>Sign in</title>")]
    with pytest.raises(RequestError, match="This is a web page: look at the URL"):
        make().embed(["a"])


def test_long_answers_are_cut(make: MakeModel, server: EmbeddingServer) -> None:
    server.faults = [Fault(status=400, body="long\n" * 1000)]
    with pytest.raises(DataError) as caught:
        make().embed(["a"])
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("backend", ["openai", "kserve"])
@pytest.mark.parametrize("status", [400, 401, 429, 500, 200])
def test_the_key_is_in_no_message(
    make: MakeModel, server: EmbeddingServer, backend: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make(backend)
    server.faults = [Fault(status=status, body=f"not good: Bearer {KEY} " * 9)]
    with pytest.raises((RequestError, TransientError, DataError)) as caught:
        model.embed(["a"])
    seen: BaseException | None = caught.value
    while seen is not None:
        assert KEY not in f"{seen} {seen!r}"
        seen = seen.__cause__ or seen.__context__
    assert "***" in str(caught.value)
    assert KEY not in f"{model!r} {model.spec!r} {vars(model)!r}"


def test_a_wrong_key_is_not_shown(make: MakeModel) -> None:
    with pytest.raises(RequestError, match=r"answered 401.*the key .* is missing or wrong") as caught:
        make(secret="sk-wrong").embed(["a"])
    assert "sk-wrong" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_keys_that_cannot_be_sent(make: MakeModel, key: str) -> None:
    with pytest.raises(RequestError, match="the key has") as caught:
        make(secret=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": ""}, "needs the URL of a server"),
        ({"url": "ftp://x"}, "needs the URL of a server"),
        ({"url": "http://[::"}, "its URL is malformed"),
        ({"options": {"send_dimension": True}}, "knows no option 'send_dimension', only encoding_format, send_dim"),
        ({"options": {"send_dimensions": "false"}}, "'send_dimensions' must be true or false"),
        ({"options": {"encoding_format": "int8"}}, "'encoding_format' must be 'float' or 'base64'"),
        ({"options": {"verify": False}, "url": "https://away.example"}, "for a server on this machine only"),
        ({"options": {"verify": "/no/such.pem"}}, "option 'verify': cannot read '/no/such.pem'"),
    ],
)
def test_descriptions_that_cannot_work(make: MakeModel, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make(**changes)
