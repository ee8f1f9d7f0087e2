"""The ANN index: built after loading, used by searches, and never half there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from airflow_reindex.core.failures import ConflictError, DataError
from airflow_reindex.vectors.model.collection import Hit, Metric
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector, indexing, searching
from airflow_reindex.vectors.stores.pgvector.collection import PgVectorCollection
from airflow_reindex.vectors.stores.pgvector.schema import Names
from sandbox.servers.postgres import Postgres
from tests.vectors.contract.samples import take
from tests.vectors.pgvector.helpers import Admin, embedded_all, info, make_source


@pytest.fixture
def dest(store: PgVectorStore) -> PgVectorCollection:
    """A loaded destination without its index."""
    take(store, "dst")
    store.create("token", info("dst"))
    loaded = store.open("dst")
    loaded.put("token", embedded_all(map(str, range(200))))
    return loaded


def index_definitions(admin: Admin) -> list[str]:
    """All indexes of the destination."""
    return [
        text
        for (text,) in admin.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename IN ('dbo_dst', 'dbop_dst') ORDER BY 1"
        ).fetchall()
    ]


class TestBuild:
    def test_as_embeddingstudio_has_it(self, dest: PgVectorCollection, admin: Admin) -> None:
        dest.build_index("token")
        assert dest.has_index()
        definitions = index_definitions(admin)
        assert any(
            "dst_index ON public.dbop_dst USING hnsw (vector vector_cosine_ops) WITH (m='16', ef_construction='64')"
            in text
            for text in definitions
        )
        for column in ("gin (payload)", "(original_id)", "(user_id)", "(session_id)", "(object_id)"):
            assert any(column in text for text in definitions)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            admin.execute("DELETE FROM dbo_dst")
        dest.build_index("token")
        assert index_definitions(admin) == definitions

    def test_unfinished_one_is_replaced(self, dest: PgVectorCollection, admin: Admin) -> None:
        dest.build_index("token")
        self.invalidate(admin)
        assert not dest.has_index()
        dest.build_index("token")
        assert dest.has_index()

    @staticmethod
    def invalidate(admin: Admin) -> None:
        """Leave an index as CONCURRENTLY leaves it when it fails: an aborted build."""
        admin.execute("DROP INDEX dst_index")
        admin.execute("SET statement_timeout = '40ms'")
        admin.execute("SET maintenance_work_mem = '1MB'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            admin.execute(
                "CREATE INDEX CONCURRENTLY dst_index ON dbop_dst USING hnsw (vector vector_cosine_ops) "
                "WITH (m = 100, ef_construction = 1000)"
            )
        admin.execute("RESET statement_timeout")
        left = admin.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('dst_index')").fetchall()
        assert left == [(False,)]

    def test_followed_collection_goes_on_taking_writes(
        self, store: PgVectorStore, dest: PgVectorCollection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.repoint(Pointer(alias="live", collection_id="dst", embedding_model_id="m"), "token")
        seen = list[bool]()
        create = indexing._create

        def noted(*arguments: Any, live: bool) -> None:
            seen.append(live)
            create(*arguments, live=live)

        monkeypatch.setattr(indexing, "_create", noted)
        dest.build_index("token")
        assert seen == [True]
        assert dest.has_index()

    def test_two_at_once(self, dest: PgVectorCollection, admin: Admin) -> None:
        with ThreadPoolExecutor(2) as pool:
            for built in [pool.submit(dest.build_index, "token") for _ in range(2)]:
                built.result(300)
        assert sum("hnsw" in text for text in index_definitions(admin)) == 1

    def test_foreign_relation_has_the_name(self, dest: PgVectorCollection, admin: Admin) -> None:
        admin.execute("CREATE TABLE dst_index ()")
        with pytest.raises(ConflictError, match="something else has the name of the index, 'dst_index'"):
            dest.build_index("token")

    def test_orphans_are_refused(self, dest: PgVectorCollection, admin: Admin) -> None:
        admin.execute("DELETE FROM dbo_dst WHERE object_id = '7'")
        with pytest.raises(DataError, match=r"Key \(object_id\)=\(7\) is not present"):
            dest.build_index("token")

    def test_progress_is_told(
        self, dest: PgVectorCollection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(indexing, "_PROGRESS_SECONDS", 0.01)
        with caplog.at_level(logging.INFO, logger=indexing.__name__):
            dest.put("token", embedded_all(map(str, range(3000))))
            dest.build_index("token")
        assert "building the ANN index, building index: loading tuples" in caplog.text
        assert "the ANN index is built" in caplog.text

    def test_sentence(self) -> None:
        text = indexing._sentence("dst", "loading", 50, 100, 7, 0.0)
        assert "50/100 blocks, 50 %, 7 vectors, about" in text
        assert indexing._sentence("dst", "initializing", 0, 0, 0, 0.0).endswith("initializing, 0 vectors")


def nearest(vectors: dict[str, Any], query: Any, metric: Metric) -> list[str]:
    """The order that numpy finds."""
    distances: dict[Metric, Callable[[Any], Any]] = {
        "cosine": lambda v: 1 - v @ query / np.linalg.norm(v) / np.linalg.norm(query),
        "euclid": lambda v: np.linalg.norm(v - query),
        "dot": lambda v: -(v @ query),
    }
    return sorted(vectors, key=lambda key: distances[metric](vectors[key]))


class TestSearch:
    @pytest.mark.parametrize("metric", ["cosine", "euclid", "dot"])
    def test_nearest(self, store: PgVectorStore, metric: Metric) -> None:
        take(store, "dst")
        store.create("token", info("dst", metric=metric))
        dest = store.open("dst")
        batch = embedded_all(map(str, range(100)))
        dest.put("token", batch)
        vectors = {
            key: vector for one in batch for key, vector in zip(one.part_ids, [*one.vectors, one.average], strict=True)
        }
        query = np.random.default_rng(7).normal(size=8).astype(np.float32)
        expected = nearest(vectors, query, metric)[:10]
        assert [hit.part_id for hit in dest.search(query, 10, exact=True)] == expected
        assert [hit.part_id for hit in dest.search(query, 10)] == expected  # no index yet
        dest.build_index("token")
        assert len(set(expected) & {hit.part_id for hit in dest.search(query, 10)}) >= 8
        hits = dest.search(query, 10, exact=True)
        assert [hit.part_id for hit in hits] == expected
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        assert isinstance(hits[0], Hit)
        assert hits[0].object_id == hits[0].part_id.split(":")[0]

    @pytest.mark.parametrize("exact", [True, False])
    def test_plan(self, dest: PgVectorCollection, admin: Admin, exact: bool) -> None:
        dest.build_index("token")
        names = Names("dst")
        with admin.transaction():
            searching.prepare(admin, 10, 100, exact=exact)
            plan = admin.execute(
                sql.SQL("EXPLAIN ") + searching.nearest(names, "cosine"),
                (searching.literal(np.ones(8, np.float32)), 10),
            ).fetchall()
        used = any("Index Scan using dst_index" in line for (line,) in plan)
        assert used is not exact

    def test_more_than_the_index_gives_at_once(self, dest: PgVectorCollection) -> None:
        dest.put("token", embedded_all(map(str, range(1000))))
        dest.build_index("token")
        assert len(dest.search(np.ones(8, np.float32), 1500)) == 1500
        assert len(dest.search(np.ones(8, np.float32), 1500, exact=True)) == 1500

    def test_settings_do_not_stay(self, dest: PgVectorCollection) -> None:
        dest.search(np.ones(8, np.float32), 1, exact=True)
        ((value,),) = dest._connections.rows("SHOW enable_indexscan")
        assert value == "on"

    def test_of_a_source(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 50)
        assert store.open("src").has_index()
        assert len(store.open("src").search(np.ones(8, np.float32), 5)) == 5

    def test_wrong_length(self, dest: PgVectorCollection) -> None:
        with pytest.raises(DataError, match="different vector dimensions"):
            dest.search(np.ones(3, np.float32), 5)


class TestSample:
    def test_large(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 15_000, index=False)
        admin.execute("ANALYZE dbop_src")
        drawn = store.open("src").sample(20)
        assert drawn.shape == (20, 8)
        assert len(np.unique(drawn, axis=0)) == 20

    def test_statistics_that_are_wrong(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 15_000, index=False)
        admin.execute("ANALYZE dbop_src")
        admin.execute("DELETE FROM dbop_src WHERE object_id > 'o0000009'")
        assert store.open("src").sample(20).shape == (20, 8)


def test_parallel_build_without_shared_memory(
    dest: PgVectorCollection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = list[str]()
    execute = psycopg.Connection.execute

    def short(self: Admin, query: Any, *arguments: Any, **options: Any) -> Any:
        text = query if isinstance(query, str) else query.as_string(None)
        if "USING hnsw" in text and not tried:
            tried.append(text)
            raise psycopg.errors.DiskFull("could not resize shared memory segment to 64 bytes: No space left on device")
        return execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", short)
    dest.build_index("token")
    assert dest.has_index()
    assert "--shm-size" in caplog.text


def test_settings_of_the_store(postgres: Postgres, database: str, dest: PgVectorCollection) -> None:
    other = PgVectorStore(
        connector(postgres.connection_uri(database)), label="x", ef_search=7, build_memory="2MB", build_workers=0
    )
    other.open("dst").build_index("token")
    assert other.open("dst").search(np.ones(8, np.float32), 3) == dest.search(np.ones(8, np.float32), 3)
    other.close()
