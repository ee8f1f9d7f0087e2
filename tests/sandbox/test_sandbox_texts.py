"""Texts and objects of the sandbox."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import islice

import pytest

from sandbox.collection.texts import documents, passages
from sandbox.servers.objects import ObjectStore


def test_documents() -> None:
    found = documents()
    assert len(found) > 100
    assert [document.name for document in found] == sorted({document.name for document in found})
    assert len({document.text for document in found}) == len(found)
    assert all(document.text.strip() and document.version for document in found)
    assert documents(7) == found[:7]
    assert sum(len(document.summary) > 10 for document in found) > len(found) / 2


def test_passages_are_many_and_unique() -> None:
    started = time.monotonic()
    many = list(passages(200_000))
    assert time.monotonic() - started < 100
    assert len(set(many)) == len(many) == 200_000
    assert all(len(passage.strip()) >= 80 for passage in many)
    assert list(passages(50)) == many[:50] == list(islice(passages(60), 50))


@pytest.mark.system
def test_another_process_gives_the_same() -> None:
    ask = "from sandbox.collection.texts import passages; import hashlib; "
    ask += "print(hashlib.sha256('|'.join(passages(9000)).encode()).hexdigest())"
    answers = {
        subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True, text=True).stdout for _ in "12"
    }
    assert len(answers) == 1


@pytest.mark.server
def test_objects_quickly() -> None:
    with ObjectStore() as store:
        started = time.monotonic()
        store.put("sandbox-bucket", {f"k/{number}": f"text {number}" for number in range(2000)})
        assert time.monotonic() - started < 60
        client = store.client()
        assert client.get_object(Bucket="sandbox-bucket", Key="k/1999")["Body"].read() == b"text 1999"
        assert store.url.startswith("http://127.0.0.1:")
        assert store.airflow_connection()["extra"]["endpoint_url"] == store.url
