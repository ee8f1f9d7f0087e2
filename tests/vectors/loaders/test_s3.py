"""Contents in S3, over HTTP from moto: each kind of failure meets the item, the run or the retry that it should."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import boto3
import pytest
from botocore.config import Config

from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.vectors.embedding.loaders.s3 import S3Loader
from airflow_reindex.vectors.embedding.loaders.settings import S3Settings
from airflow_reindex.vectors.model.loader import Loader
from sandbox.servers.objects import ObjectStore
from tests.support.loader_samples import item, told

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        store.put("docs-one", {"a.txt": "alpha", "b/ü.txt": "béta", "bom.txt": b"\xef\xbb\xbfbom", "empty": ""})
        store.put("docs-one", {"latin.txt": b"\xe9t\xe9", "large": "x" * 1001})
        store.put("docs-two", {"a.txt": "other"})
        yield store


def loader(objects: ObjectStore, **settings: Any) -> Loader:
    """A loader that has `docs-one` for items without a bucket."""
    return S3Loader(S3Settings(**{"bucket": "docs-one", **settings}), objects.client())


def broken_client(url: str) -> Any:
    """A client of another server, that tries twice."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=1, read_timeout=1)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **keys)


def test_contents_and_versions(objects: ObjectStore) -> None:
    items = [item(meta={"file": key}) for key in ("a.txt", "b/ü.txt", "bom.txt", "a.txt")]
    items.append(item(meta={"key": "a.txt", "bucket": "docs-two", "index": 3}))
    loading = loader(objects, buckets=("docs-one", "docs-two"))
    answers = loading.load(items)
    assert told(answers) == ["alpha", "béta", "bom", "alpha", "other"]
    assert loading.versions(items) == [answer.version for answer in answers]  # type: ignore[union-attr]
    assert answers[0] == answers[3] != answers[4]
    assert loading.outside


def test_the_version_changes_with_the_object(objects: ObjectStore) -> None:
    loading, one = loader(objects), [item(meta={"file": "moving"})]
    objects.put("docs-one", {"moving": "first"})
    before = loading.versions(one)
    objects.put("docs-one", {"moving": "second"})
    assert loading.versions(one) != before
    assert loading.load(one)[0].version == loading.versions(one)[0]  # type: ignore[union-attr]


def test_what_concerns_one_item(objects: ObjectStore) -> None:
    metas: list[Any] = [
        None,
        ["a.txt"],
        {},
        {"file": 7},
        {"file": ""},
        {"file": "gone"},
        {"file": "latin.txt"},
        {"file": "large"},
        {"file": "a.txt", "bucket": "docs-two"},
        {"file": "a.txt", "bucket": 5},
        {"file": "a.txt"},
        {"file": "k" * 2000},
    ]
    answers = told(loader(objects, max_bytes=1000).load([item(meta=meta) for meta in metas]))
    assert answers[:11] == [
        "!the storage metadata is NULL.",
        "!the storage metadata is no object.",
        "!the storage metadata has no text in 'file'.",
        "!the storage metadata has no text in 'file'.",
        "!the storage metadata has no text in 'file'.",
        "!there is no object s3://docs-one/gone.",
        "!s3://docs-one/latin.txt is no text in utf-8: 'utf-8' codec can't decode byte 0xe9 in position 0: "
        "invalid continuation byte.",
        "!s3://docs-one/large has 1001 bytes, more than 'max_bytes' (1000).",
        "!the bucket 'docs-two' is not among those of the loader: docs-one.",
        "!the storage metadata has no text in 'bucket'.",
        "alpha",
    ]
    assert answers[11].startswith("!"), "a key that S3 does not take"


def test_versions_tell_the_same_failures(objects: ObjectStore) -> None:
    metas: list[Any] = [None, {"file": "gone"}, {"file": "a.txt", "bucket": "docs-two"}, {"file": "a.txt"}]
    answers = told(loader(objects).versions([item(meta=meta) for meta in metas]))
    assert answers[1] == "!there is no object s3://docs-one/gone."
    assert [answer[0] == "!" for answer in answers] == [True, True, True, False]


def test_an_empty_object_is_left_to_the_splitter(objects: ObjectStore) -> None:
    assert told(loader(objects).load([item(meta={"file": "empty"})])) == [""]


def test_other_encodings_and_fields(objects: ObjectStore) -> None:
    assert told(loader(objects, encoding="latin-1").load([item(meta={"file": "latin.txt"})])) == ["été"]
    nested = item(meta={"at": {"key": "a.txt", "in": "docs-two"}})
    made = loader(objects, bucket="", key_field="at.key", bucket_field="at.in")
    assert told(made.load([nested])) == ["other"]
    assert told(made.load([item(meta={"file": "a.txt"})])) == ["!the storage metadata has no text in 'at.key'."]


def test_json_objects(objects: ObjectStore) -> None:
    listed = json.dumps([{"t": "zero"}, {"t": "one", "u": "more"}])
    objects.put("docs-one", {"list.json": listed, "one.json": '{"t": "T", "d": {"x": "X"}}', "bad.json": "{"})
    metas: list[Any] = [
        {"file": "one.json"},
        {"file": "list.json", "index": 1},
        {"file": "list.json", "index": 2},
        {"file": "list.json"},
        {"file": "bad.json"},
    ]
    answers = told(loader(objects, json_fields=("t",)).load([item(meta=meta) for meta in metas]))
    assert answers[:4] == [
        "T",
        "one",
        "!s3://docs-one/list.json has 2 elements, none with the index 2.",
        "!s3://docs-one/list.json is no JSON object.",
    ]
    assert answers[4].startswith("!s3://docs-one/bad.json is no JSON: ")
    assert told(loader(objects, json_fields=()).load([item(meta=metas[1])])) == ["one\nmore"]
    missing = told(loader(objects, json_fields=("d.y",)).load([item(meta=metas[0])]))
    assert missing == ["!s3://docs-one/one.json has no field 'd.y'."]


def test_denied_objects(objects: ObjectStore) -> None:
    objects.put("denied", {"open": "o", "shut/1": "1", "shut/2": "2"})
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::denied/shut/*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    objects.client().put_bucket_policy(Bucket="denied", Policy=json.dumps(policy))
    ask = loader(objects, bucket="denied").load
    opened, *shut = [item(meta={"file": key}) for key in ("open", "shut/1", "shut/2")]
    answers = told(ask([opened, *shut]))
    assert answers[0] == "o"
    assert all(answer.startswith("!S3 refuses s3://denied/shut/") for answer in answers[1:])
    assert told(ask(shut[:1]))[0].startswith("!S3 refuses"), "of one alone it cannot be told; it fails alone"
    with pytest.raises(RequestError, match=r"all 2 objects .* refused, the first: S3 refuses s3://denied/shut/1"):
        ask(shut)


def test_versions_that_are_denied() -> None:
    server = answering(403, "AccessDenied")
    try:
        made = S3Loader(S3Settings(bucket="docs-one"), broken_client(f"http://127.0.0.1:{server.server_port}"))
        one, other = item(meta={"file": "a"}), item(meta={"file": "b"})
        assert told(made.versions([one, one]))[1].startswith("!S3 refuses s3://docs-one/a: ")
        with pytest.raises(RequestError, match=r"all 2 objects .* \(AccessDenied\)"):
            made.versions([one, other])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("method", ["load", "versions"])
def test_missing_buckets(objects: ObjectStore, method: str) -> None:
    with pytest.raises(RequestError, match="there is no bucket 'nowhere', which the loader names"):
        getattr(loader(objects, bucket="nowhere"), method)([item(meta={"file": "a.txt"})])
    free = loader(objects, bucket="")
    lost, good = item(meta={"file": "a", "bucket": "nowhere"}), item(meta={"file": "a.txt", "bucket": "docs-one"})
    odd = item(meta={"file": "a", "bucket": "not a bucket!"})
    answers = told(getattr(free, method)([lost, good, odd]))
    assert answers[0] == "!there is no bucket for s3://nowhere/a."
    assert not answers[1].startswith("!")
    assert answers[2].startswith("!s3://not a bucket!/a cannot be asked for: ")
    with pytest.raises(RequestError, match="all 2 objects of a batch were refused"):
        getattr(free, method)([lost, odd])


def answering(status: int, code: str, *, broken: bool = False) -> HTTPServer:
    """A server with one answer; `broken` bodies end too soon."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self.server.asked += 1  # type: ignore[attr-defined]
            self.send_response(status)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body) + (10 if broken else 0)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *parts: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.mark.parametrize("method", ["load", "versions"])
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "InvalidAccessKeyId", RequestError),
        (403, "SignatureDoesNotMatch", RequestError),
        (400, "ExpiredToken", RequestError),
        (503, "SlowDown", TransientError),
        (500, "InternalError", TransientError),
    ],
)
def test_answers_that_concern_all(status: int, code: str, kind: type[Exception], method: str) -> None:
    server = answering(status, code)
    try:
        made = S3Loader(S3Settings(bucket="docs-one"), broken_client(f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(kind):
            getattr(made, method)([item(meta={"file": "a"})])
        if method == "load":
            assert server.asked == (2 if kind is TransientError else 1), "what may pass is asked again"  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def test_bodies_that_break_off() -> None:
    server = answering(200, "text", broken=True)
    try:
        made = S3Loader(S3Settings(bucket="docs-one"), broken_client(f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(TransientError, match="s3://docs-one/a breaks off"):
            made.load([item(meta={"file": "a"})])
        assert server.asked == 3  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_down() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = S3Loader(S3Settings(bucket="docs-one"), broken_client(f"http://127.0.0.1:{port}"))
    for ask in (made.load, made.versions):
        with pytest.raises(TransientError, match="s3://docs-one/a could not be reached"):
            ask([item(meta={"file": "a"}), item(meta={"file": "b"})])


def test_no_credentials(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.Session().client("s3", endpoint_url=objects.url, region_name="us-east-1")
    with pytest.raises(RequestError, match="cannot be asked for with 'aws_default': Unable to locate credentials"):
        S3Loader(S3Settings(bucket="docs-one"), client).load([item(meta={"file": "a"})])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoding": "klingon"}, "'encoding' must be the name of an encoding, not 'klingon'"),
        ({"encoding": "base64"}, "'encoding' must be the name of an encoding"),
        ({"concurrency": 0}, "must be at least 1"),
        ({"bucket": "a", "buckets": ("b",)}, "'buckets' lacks the default bucket 'a'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        S3Loader(S3Settings(**settings), None)


def test_the_config_has_what_changes_contents() -> None:
    configs = [
        S3Loader(S3Settings(**settings), None).config
        for settings in ({}, {"json_fields": ("t",)}, {"json_fields": ()}, {"encoding": "latin-1"}, {"bucket": "b"})
    ]
    assert len(set(configs)) == 5
    same = S3Loader(S3Settings(max_bytes=5, concurrency=2, buckets=("c",)), None).config
    assert same == configs[0]
