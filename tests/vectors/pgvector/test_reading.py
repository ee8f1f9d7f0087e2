"""Reading a collection that EmbeddingStudio made: keys, versions, items, and what is known of it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.stores.pgvector import PgVectorStore
from sandbox.servers.postgres import Postgres
from tests.vectors.pgvector.helpers import Admin, make_source


def insert(admin: Admin, key: str, payload: str | None = None, **columns: Any) -> None:
    """Insert an object as a writer does."""
    columns = {"object_id": key, "payload": payload, **columns}
    text: Any = f"INSERT INTO dbo_src ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
    admin.execute(text, list(columns.values()))


class TestFind:
    def test_without_a_note(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 3)
        found = store.find("src")
        assert found is not None
        assert (found.embedding_model_id, found.dimensions, found.metric) == ("", 8, "cosine")
        assert (found.m, found.ef_construction) == (16, 64)

    @pytest.mark.parametrize(("opclass", "metric"), [("vector_l2_ops", "euclid"), ("vector_ip_ops", "dot")])
    def test_metric_is_the_index_s(self, store: PgVectorStore, admin: Admin, opclass: str, metric: str) -> None:
        make_source(admin, "src", 3, index=False)
        text: Any = (
            f"CREATE INDEX src_index ON dbop_src USING hnsw (vector {opclass}) WITH (m = 8, ef_construction = 20)"
        )
        admin.execute(text)
        found = store.find("src")
        assert found is not None
        assert (found.metric, found.m, found.ef_construction) == (metric, 8, 20)

    def test_column_without_dimensions(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 3, index=False)
        admin.execute("ALTER TABLE dbop_src ALTER vector TYPE vector")
        found = store.find("src")
        assert found is not None
        assert found.dimensions == 8

    @pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "x" * 58, "ü" * 30, "\ud800", "100%s"])
    def test_bad_names(self, store: PgVectorStore, name: str) -> None:
        with pytest.raises(RequestError, match="collection's id"):
            store.find(name)

    def test_any_other_name(self, store: PgVectorStore, admin: Admin) -> None:
        name = "we\"ird; DROP TABLE {x} \\ 'ü"
        make_source(admin, name, 3)
        found = store.find(name)
        assert found is not None
        assert store.open(name).count() == 3


class TestKeys:
    def test_keys_that_are_there_all_the_time_are_seen_once(
        self, store: PgVectorStore, admin: Admin, postgres: Postgres
    ) -> None:
        make_source(admin, "src", 5000, index=False)
        stop = threading.Event()

        def write() -> None:
            with postgres.connect(admin.info.dbname, user="reindex") as other:
                number = 0
                while not stop.is_set():
                    number += 1
                    other.execute("INSERT INTO dbo_src (object_id) VALUES (%s)", (f"o{number * 7 % 5000:07}-{number}",))
                    other.execute(
                        "UPDATE dbo_src SET payload = '1' WHERE object_id = %s", (f"o{number * 13 % 5000:07}",)
                    )

        thread = threading.Thread(target=write)
        thread.start()
        try:
            seen = [key for keys in store.open("src").keys(50) for key in keys]
        finally:
            stop.set()
            thread.join()
        assert len(set(seen)) == len(seen)
        assert {f"o{n:07}" for n in range(5000)} <= set(seen)

    def test_ranges(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 0)
        for key in ("a", "B", "c", "Ä", "z", "Z"):
            insert(admin, key)
        source = store.open("src")
        order = [key for keys in source.keys(2) for key in keys]
        for low, high in ((0, 2), (1, 5), (2, 3)):
            assert set(source.versions(order[low], order[high])) == set(order[low + 1 : high + 1])
        assert set(source.versions(None, order[1])) == set(order[:2])
        assert set(source.versions(order[3], None)) == set(order[4:])


class TestVersions:
    def test_differ_with_each_column(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 0)
        rows: list[dict[str, Any]] = [
            {},
            {"payload": "null"},
            {"payload": "{}"},
            {"payload": '"x"'},
            {"payload": '"x"', "storage_meta": "1"},
            {"storage_meta": '"x"'},
            {"user_id": ""},
            {"user_id": ","},
            {"user_id": "x"},
            {"session_id": "x"},
            {"session_id": ""},
            {"user_id": "a,b"},
            {"user_id": "a", "session_id": "b"},
            {"user_id": '"', "session_id": '"'},
            {"user_id": '","'},
        ]
        for number, row in enumerate(rows):
            insert(admin, f"k{number}", **row)
        versions = store.open("src").versions(None, None)
        assert len(versions) == len(set(versions.values())) == len(rows)
        assert {len(version) for version in versions.values()} == {16}

    def test_equal_for_equal_json(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 0)
        insert(admin, "a", '{"x": 1, "y": [1, 2]}')
        insert(admin, "b", '{"y": [1,2],   "x": 1}')
        versions = store.open("src").versions(None, None)
        assert versions["a"] == versions["b"]

    def test_since(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 5)
        source = store.open("src")
        watermark = source.watermark()
        assert source.versions(None, None, watermark) == {}
        admin.execute("UPDATE dbo_src SET payload = '1' WHERE object_id = 'o0000001'")
        insert(admin, "o9")
        assert set(source.versions(None, None, watermark)) == {"o0000001", "o9"}
        assert set(source.versions("o0000001", None, watermark)) == {"o9"}

    def test_since_sees_what_was_open_at_the_horizon(
        self, store: PgVectorStore, admin: Admin, postgres: Postgres
    ) -> None:
        make_source(admin, "src", 5)
        source = store.open("src")
        with postgres.connect(admin.info.dbname, user="reindex") as other:
            with other.transaction():
                other.execute("UPDATE dbo_src SET payload = '1' WHERE object_id = 'o0000001'")
                with other.transaction():  # a savepoint has a transaction id of its own
                    other.execute("UPDATE dbo_src SET payload = '1' WHERE object_id = 'o0000002'")
                insert(admin, "o8")
                watermark = source.watermark()
                admin.execute("SELECT pg_current_xact_id()")
            insert(admin, "o9")
        assert {"o0000001", "o0000002", "o9"} <= set(source.versions(None, None, watermark))

    def test_since_of_frozen_rows_and_old_horizons(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 5)
        source = store.open("src")
        watermark = source.watermark()
        admin.execute("UPDATE dbo_src SET payload = '1' WHERE object_id = 'o0000001'")
        admin.execute("VACUUM FREEZE dbo_src")
        assert set(source.versions(None, None, watermark)) == {"o0000001"}
        admin.execute("VACUUM FULL dbo_src")
        assert "o0000001" in source.versions(None, None, watermark)
        assert len(source.versions(None, None, "3")) == 5


class TestItems:
    def test_text_is_verbatim(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 0)
        payload = (
            '{"big": 123456789012345678901234567890.123456789000, "u": "ü\\u2028\U0001f600", "n": {"a": [null, {}]}}'
        )
        insert(admin, "k" * 128, payload, storage_meta='{"index": 1}', user_id="u", session_id="s")
        insert(admin, "null")
        (one,) = store.open("src").items(["k" * 128])
        assert one.payload_json is not None
        assert "123456789012345678901234567890.123456789000" in one.payload_json
        assert one.payload == json.loads(payload)
        assert (one.storage_meta, one.user_id, one.session_id) == ({"index": 1}, "u", "s")
        (none,) = store.open("src").items(["null"])
        assert (none.payload_json, none.storage_meta_json, none.user_id) == (None, None, None)


def test_nothing_has_been_prepared(store: PgVectorStore, admin: Admin) -> None:
    make_source(admin, "src", 3)
    admin.execute("DROP SCHEMA airflow_reindex CASCADE")
    assert store.find("src") is not None
    assert (store.claims(), store.followers("src"), store.pointer("live")) == ([], [], None)
    store.check_alias("live")
    source = store.open("src")
    assert source.count_failed("run") == 0
    assert [state.sync for state in source.states(None, None).values()] == [None] * 3
    assert source.states(None, None, ["o0000001"]).keys() == {"o0000001"}
