"""What is LanceDB's own: names, errors, other people's tables, object stores."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import HnswSq

from airflow_reindex.core.failures import ConflictError, DataError, ReindexError, RequestError, TransientError
from airflow_reindex.vectors.model.collection import Collection, Embedded, Item, SyncState
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.lancedb import LanceStore, registry
from airflow_reindex.vectors.stores.lancedb.collection import schema
from airflow_reindex.vectors.stores.lancedb.database import Database, table_name
from sandbox.servers.objects import ObjectStore
from tests.vectors.contract.samples import (
    DIMENSIONS,
    TOKEN,
    claim,
    created,
    embedded,
    fill,
    item,
    part_ids,
    respect,
    take,
)

pytestmark = pytest.mark.database


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanceStore:
    """A store in a folder."""
    monkeypatch.setattr(registry, "_SETTLE_SECONDS", 0.0)
    made = LanceStore(str(tmp_path))
    made.prepare()
    return made


class TestNames:
    def test_different_for_different_ids(self) -> None:
        ids = ["a", "A", "a b", "a.-20b", "a-20b", "a_b", ".", "..", "_reindex_registry", ".-5freindex_registry", "ä"]
        names = [table_name(name) for name in ids]
        assert len(set(names)) == len(ids)
        assert names[0] == "a"
        assert names[2] == "a.-20b"
        assert not any(name.startswith("_reindex_") for name in names)

    @pytest.mark.parametrize("name", ["", "x" * 201, "日" * 50])
    def test_no_names(self, name: str) -> None:
        with pytest.raises(RequestError):
            table_name(name)

    def test_our_own_tables_are_no_collections(self, store: LanceStore) -> None:
        assert store.find("_reindex_registry") is None
        assert store.find("_reindex_marks.dst") is None


class TestErrors:
    def test_no_folder(self, tmp_path: Path) -> None:
        for act in (LanceStore.check, LanceStore.prepare, LanceStore.claims):
            with pytest.raises(RequestError, match="no such folder"):
                act(LanceStore(str(tmp_path / "gone")))
        assert not (tmp_path / "gone").exists()

    def test_a_write_before_it_is_prepared(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="prepared"):
            take(LanceStore(str(tmp_path)), "dst")

    def test_a_collection_that_was_dropped(self, store: LanceStore) -> None:
        dest = created(store, "dst")
        store.drop("dst")
        with pytest.raises(RequestError):
            dest.count()

    def test_a_table_that_is_no_collection(self, store: LanceStore, tmp_path: Path) -> None:
        lancedb.connect(tmp_path).create_table("plain", data=[{"text": "x", "vector": [1.0, 2.0]}])
        with pytest.raises(RequestError, match="part_id"):
            store.find("plain")

    @pytest.mark.parametrize(
        ("error", "kind", "code"),
        [
            (RuntimeError("lance error: Retryable commit conflict for version 2: preempted"), TransientError, "busy"),
            (OSError("status: 409, <Code>ConditionalRequestConflict</Code>"), TransientError, "busy"),
            (RuntimeError("lance error: LanceError(IO): Generic S3 error: timeout"), TransientError, "connection"),
            (ValueError("Invalid input, Failed to connect to namespace: ConnectError"), TransientError, "connection"),
            (OSError("LanceError(IO): No space left on device (os error 28)"), TransientError, "disk_full"),
            (RuntimeError("Generic S3 error: ... status: 403, body: AccessDenied"), RequestError, "refused"),
            (ValueError("Failed to connect to namespace: ... <Code>NoSuchBucket</Code>"), RequestError, "refused"),
            (ValueError("Table 'x' was not found"), RequestError, "refused"),
            (PermissionError(13, "Permission denied"), RequestError, "refused"),
            (ValueError("Invalid input, field 'q' does not exist in table schema"), DataError, "bad_data"),
        ],
    )
    def test_classes(self, error: Exception, kind: type[ReindexError], code: str) -> None:
        with pytest.raises(kind) as caught, Database("there", None).translated():
            raise error
        assert caught.value.code == code

    def test_half_a_surrogate_pair(self, store: LanceStore) -> None:
        dest = created(store, "dst")
        with pytest.raises(DataError):
            dest.put(TOKEN, [embedded(item("b")), embedded(item("a", payload_json='"\ud800"'))])
        assert dest.count() == 0


class TestRegistry:
    def test_of_many_who_prepare_nobody_loses_a_claim(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_SETTLE_SECONDS", 1.0)
        barrier = threading.Barrier(4)

        def run(number: int) -> None:
            store = LanceStore(str(tmp_path))
            barrier.wait()
            store.prepare()
            store.take(claim(f"dst{number}", f"token{number}"), lambda _: None)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run, range(4)))
        assert len(LanceStore(str(tmp_path)).claims()) == 4

    @pytest.mark.filterwarnings("ignore:optimize")
    def test_older_versions_go(self, store: LanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        take(store, "dst")
        for _ in range(5):
            store.touch(claim("dst"))
        table = lancedb.connect(tmp_path).open_table(registry.NAME)
        assert len(table.list_versions()) > 5
        monkeypatch.setattr(registry, "_KEEP", timedelta(0))
        take(store, "dst", "other")
        assert len(table.list_versions()) < 4
        assert store.touch(claim("dst", "other"))

    def test_silence(self, store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
        take(store, "dst")
        now = time.time()
        monkeypatch.setattr("airflow_reindex.vectors.stores.lancedb.store.time.time", lambda: now + 90)
        assert 85 < store.claims()[0].silent < 91
        assert store.touch(claim("dst"))
        assert store.claims()[0].silent == 0

    def test_readers_find_their_collection(self, store: LanceStore, tmp_path: Path) -> None:
        """The lines in the package's documentation."""
        created(store, "dst")
        store.repoint(Pointer(alias="my-alias", collection_id="dst", embedding_model_id="m"), TOKEN)
        database = lancedb.connect(tmp_path)
        document = database.open_table("_reindex_registry").to_arrow()["document"][0].as_py()
        assert json.loads(document)["aliases"]["my-alias"]["collection_id"] == "dst"


class TestOthersTables:
    @pytest.fixture
    def source(self, store: LanceStore, tmp_path: Path) -> Collection:
        """A collection that the store knows nothing of; its averages are told by the flag alone."""
        rows = [
            {
                "part_id": f"o{number}/{part}",
                "object_id": f"o{number}",
                "vector": np.full(DIMENSIONS, number + 1.0).tolist(),
                "is_average": True if part == 2 else None,
                "payload": '{"text": "x"}' if part == 2 else None,
            }
            for number in range(5)
            for part in range(3)
        ]
        table = pa.Table.from_pylist(rows, schema=schema(DIMENSIONS))
        lancedb.connect(tmp_path).create_table("src", data=table)
        return store.open("src")

    def test_read(self, store: LanceStore, source: Collection) -> None:
        found = store.find("src")
        assert found is not None
        assert (found.embedding_model_id, found.dimensions, found.metric) == ("", DIMENSIONS, "cosine")
        assert source.count() == len(source.versions(None, None)) == len(source.states(None, None)) == 5
        assert source.items(["o1"])[0].payload == {"text": "x"}
        assert source.sample(100).shape == (10, DIMENSIONS)
        assert source.count_failed("run") == 0
        assert list(source.integrity_errors(None, None).incomplete) == []

    def test_metric_of_the_index_counts(self, store: LanceStore, tmp_path: Path) -> None:
        rows = pa.Table.from_pylist([], schema=schema(DIMENSIONS))
        table = lancedb.connect(tmp_path).create_table("src", data=rows)
        table.create_index("vector", config=HnswSq(distance_type="l2"))
        found = store.find("src")
        assert found is not None
        assert found.metric == "euclid"

    @pytest.mark.usefixtures("source")
    def test_dropped(self, store: LanceStore) -> None:
        store.drop("src")
        assert store.find("src") is None


def test_nothing_is_compared_when_nothing_was_written(store: LanceStore) -> None:
    dest = created(store, "dst")
    fill(dest, ["a", "b"])
    watermark = dest.watermark()
    assert dest.versions(None, None, watermark) == {}
    fill(dest, ["c"])
    assert dest.versions(None, None, watermark).keys() >= {"c"}


def test_recall_of_a_larger_index(store: LanceStore) -> None:
    dest = created(store, "dst", dimensions=32, metric="cosine")
    vectors = np.random.default_rng(1).normal(size=(3000, 32)).astype(np.float32)
    batch = [
        Embedded(Item(f"o{n:04d}", "{}", None, b"v"), vectors[3 * n : 3 * n + 3], SyncState(b"v", b"r"))
        for n in range(1000)
    ]
    dest.put(TOKEN, batch)
    dest.build_index(TOKEN)
    found = [
        len({hit.part_id for hit in dest.search(q, 10)} & {hit.part_id for hit in dest.search(q, 10, exact=True)})
        for q in dest.sample(20)
    ]
    assert sum(found) >= 0.9 * 10 * 20


@pytest.mark.server
def test_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto knows the conditional writes by which LanceDB commits."""
    monkeypatch.setattr(registry, "_SETTLE_SECONDS", 0.0)
    with ObjectStore() as objects:
        objects.client().create_bucket(Bucket="lance-tests")
        options = {
            "aws_access_key_id": "sandbox",
            "aws_secret_access_key": "sandbox-secret",
            "region": "us-east-1",
            "endpoint": objects.url,
            "allow_http": "true",
        }
        store, other = (LanceStore("s3://lance-tests/db", options) for _ in range(2))
        store.check()
        store.prepare()
        dest = created(store, "dst")
        fill(dest, ["a", "b"])
        dest.put(TOKEN, [embedded(item("a", "new"), parts=1)])
        dest.delete(TOKEN, ["b"])
        dest.build_index(TOKEN)
        seen = other.open("dst")
        assert part_ids(seen) == {"a:0", "a:average"}
        assert (seen.items(["a"])[0].payload, seen.has_index()) == ("new", True)
        with pytest.raises(ConflictError):
            other.take(claim("dst", "other"), respect)

        def count_up(one: LanceStore, name: str) -> None:
            for number in range(2):
                take(one, f"{name}{number}", f"{name}{number}")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(count_up, (store, other), "xy"))
        assert len(store.claims()) == 5
