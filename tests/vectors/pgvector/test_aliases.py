"""What readers follow: both views and the registry change together, and grants stay."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from airflow_reindex.core.failures import ClaimLostError, ConflictError, RequestError, TransientError
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.servers.postgres import Postgres
from tests.support.collection_contents import waiting_for_lock
from tests.support.wait import wait_until
from tests.vectors.contract.samples import take
from tests.vectors.pgvector.helpers import Admin, embedded_all, info, make_source

BLUE = Pointer(alias="live", collection_id="blue", embedding_model_id="m1", run_id="r1")
GREEN = Pointer(
    alias="live",
    collection_id="green",
    embedding_model_id="m2",
    previous_collection_id="blue",
    previous_model_id="m1",
    run_id="r2",
)


@pytest.fixture
def pair(store: PgVectorStore, admin: Admin) -> PgVectorStore:
    """Two collections with vectors of different lengths."""
    make_source(admin, "blue", 30, dimensions=4)
    make_source(admin, "green", 40, dimensions=6)
    take(store, "green")
    return store


def one(connection: Admin, text: Any, values: Sequence[Any] = ()) -> Any:
    """The first column of the first row."""
    row = connection.execute(text, values).fetchone()
    return None if row is None else row[0]


class TestRepoint:
    def test_there_and_back(self, pair: PgVectorStore, admin: Admin) -> None:
        assert pair.pointer("live") is None
        pair.repoint(BLUE, None)
        assert one(admin, "SELECT count(*) FROM dbo_live") == 30
        first = pair.pointer("live")
        assert first is not None
        assert replace(first, switched_at="") == BLUE
        assert first.switched_at.endswith("Z")
        pair.repoint(GREEN, "token")
        assert one(admin, "SELECT count(*) FROM dbo_live") == 40
        assert one(admin, "SELECT vector_dims(vector) FROM dbop_live LIMIT 1") == 6
        assert (pair.followers("blue"), pair.followers("green")) == ([], ["live"])
        second = pair.pointer("live")
        assert second is not None
        assert second.switched_at > first.switched_at
        pair.repoint(BLUE, None)
        assert one(admin, "SELECT vector_dims(vector) FROM dbop_live LIMIT 1") == 4

    def test_hook_is_noted_without_a_switch(self, pair: PgVectorStore, postgres: Postgres, admin: Admin) -> None:
        pair.repoint(BLUE, None)
        before = pair.pointer("live")
        assert before is not None
        with postgres.connect(admin.info.dbname) as reader, reader.transaction():
            reader.execute("SELECT 1 FROM dbo_live")
            pair.repoint(replace(BLUE, hooked=True), None)
        assert pair.pointer("live") == replace(before, hooked=True)

    def test_views_that_were_dropped_come_back(self, pair: PgVectorStore, admin: Admin) -> None:
        pair.repoint(BLUE, None)
        admin.execute("DROP VIEW dbop_live")
        pair.repoint(BLUE, None)
        assert one(admin, "SELECT count(*) FROM dbop_live") == 60

    def test_zombie_switches_nothing(self, pair: PgVectorStore, admin: Admin) -> None:
        pair.repoint(BLUE, None)
        take(pair, "green", "heir")
        with pytest.raises(ClaimLostError):
            pair.repoint(GREEN, "token")
        assert one(admin, "SELECT count(*) FROM dbo_live") == 30
        pair.repoint(GREEN, "heir")

    def test_unknown_collection(self, pair: PgVectorStore) -> None:
        with pytest.raises(RequestError, match="does not exist"):
            pair.repoint(replace(BLUE, collection_id="nowhere"), None)
        assert pair.pointer("live") is None

    def test_grants_and_dependents_stay(self, pair: PgVectorStore, postgres: Postgres, admin: Admin) -> None:
        with postgres.connect(admin.info.dbname) as boss:
            boss.execute("DROP ROLE IF EXISTS reader")
            boss.execute("CREATE ROLE reader")
            boss.execute("GRANT USAGE ON SCHEMA public TO reader")
            pair.repoint(BLUE, None)
            admin.execute("GRANT SELECT ON dbo_live, dbop_live TO reader")
            admin.execute("CREATE VIEW theirs AS SELECT object_id, vector FROM dbop_live")
            pair.repoint(GREEN, "token")
            boss.execute("SET ROLE reader")
            assert one(boss, "SELECT count(*) FROM dbop_live JOIN dbo_live USING (object_id)") == 80
            boss.execute("RESET ROLE")
            assert one(boss, "SELECT count(*) FROM theirs WHERE vector_dims(vector) = 6") == 80
            boss.execute("DROP OWNED BY reader")
            boss.execute("DROP ROLE reader")

    def test_index_is_used_through_the_view(self, pair: PgVectorStore, admin: Admin) -> None:
        pair.repoint(GREEN, "token")
        admin.execute("SET enable_seqscan = off")
        admin.execute("SET enable_sort = off")
        plan = admin.execute(
            "EXPLAIN SELECT object_id FROM dbop_live JOIN dbo_live USING (object_id) "
            "ORDER BY vector <=> '[1,2,3,4,5,6]' LIMIT 5"
        ).fetchall()
        assert any("Index Scan using green_index" in line for (line,) in plan)

    def test_readers_never_see_half_a_switch(self, pair: PgVectorStore, postgres: Postgres, admin: Admin) -> None:
        pair.repoint(BLUE, None)
        stop, wrong = threading.Event(), list[Any]()

        def read() -> int:
            seen = 0
            with postgres.connect(admin.info.dbname) as reader:
                while not stop.is_set():
                    row = reader.execute(
                        "SELECT (SELECT collection_id FROM airflow_reindex.aliases), (SELECT count(*) FROM dbo_live), "
                        "(SELECT min(vector_dims(vector)) FROM dbop_live), "
                        "(SELECT max(vector_dims(vector)) FROM dbop_live)"
                    ).fetchone()
                    seen += 1
                    if row not in (("blue", 30, 4, 4), ("green", 40, 6, 6)):
                        wrong.append(row)
            return seen

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                for _ in range(10):
                    pair.repoint(GREEN, "token")
                    pair.repoint(BLUE, None)
            finally:
                stop.set()
        assert all(reader.result() > 0 for reader in readers)
        assert wrong == []

    def test_waits_for_readers_but_not_for_ever(self, pair: PgVectorStore, postgres: Postgres, admin: Admin) -> None:
        pair.repoint(BLUE, None)
        with postgres.connect(admin.info.dbname) as reader, reader.transaction():
            reader.execute("SELECT 1 FROM dbop_live")
            with pytest.raises(TransientError, match="nothing was switched"):
                pair.repoint(GREEN, "token")
            uri = postgres.connection_uri(admin.info.dbname)
            with closing(PgVectorStore(connector(uri), label="patient")) as patient, ThreadPoolExecutor(1) as pool:
                switch = pool.submit(patient.repoint, GREEN, "token")
                wait_until(lambda: waiting_for_lock(admin, "dbop_live"))
                # The reader goes on to the other view; it must not be the one that is aborted.
                reader.execute("SELECT 1 FROM dbo_live")
                reader.execute("COMMIT")
                switch.result(120)
                reader.execute("BEGIN")
        assert one(admin, "SELECT count(*) FROM dbo_live") == 40


class TestCheckAlias:
    @pytest.mark.parametrize("alias", ["", "x" * 60, "a\nb", "blue"])
    def test_refused(self, pair: PgVectorStore, alias: str) -> None:
        with pytest.raises(RequestError, match="alias"):
            pair.check_alias(alias)
        with pytest.raises(RequestError):
            pair.repoint(replace(BLUE, alias=alias), None)

    def test_foreign_view(self, pair: PgVectorStore, admin: Admin) -> None:
        admin.execute("CREATE VIEW dbop_live AS SELECT 1 AS x")
        with pytest.raises(RequestError, match="not made by this product"):
            pair.check_alias("live")

    def test_alias_is_no_collection(self, pair: PgVectorStore) -> None:
        pair.repoint(BLUE, None)
        assert pair.find("live") is None


class TestDrop:
    def test_all_of_it(self, store: PgVectorStore, admin: Admin) -> None:
        take(store, "dst")
        store.create("token", info("dst"))
        store.open("dst").put("token", embedded_all("ab"))
        store.drop("dst")
        store.drop("dst")
        assert store.find("dst") is None
        assert one(admin, "SELECT count(*) FROM airflow_reindex.collections") == 0
        assert one(admin, "SELECT to_regclass('airflow_reindex.marks_dst')") is None

    def test_followed(self, pair: PgVectorStore) -> None:
        pair.repoint(BLUE, None)
        with pytest.raises(ConflictError, match="the alias 'live' points to 'blue'"):
            pair.drop("blue")
        pair.repoint(GREEN, "token")
        pair.drop("blue")
        assert pair.find("blue") is None

    def test_what_depends_on_it_is_named(self, pair: PgVectorStore, admin: Admin) -> None:
        admin.execute("CREATE VIEW theirs AS SELECT * FROM dbo_blue")
        with pytest.raises(ConflictError, match="view theirs depends on table dbo_blue"):
            pair.drop("blue")
        assert pair.open("blue").integrity_errors(None, None).orphans == 0

    def test_readers_hold_it(self, pair: PgVectorStore, postgres: Postgres, admin: Admin) -> None:
        with postgres.connect(admin.info.dbname) as reader, reader.transaction():
            reader.execute("SELECT 1 FROM dbop_blue")
            with pytest.raises(TransientError):
                pair.drop("blue")
        assert pair.find("blue") is not None


class TestHoldWriters:
    def test_writers_wait_readers_do_not(self, pair: PgVectorStore, admin: Admin) -> None:
        with pair.hold_writers("blue", 1):
            assert pair.open("blue").count() == 30
            admin.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                admin.execute("DELETE FROM dbo_blue WHERE object_id = '?'")
            pair.repoint(BLUE, None)
            pair.repoint(GREEN, "token")
        admin.execute("DELETE FROM dbop_blue")

    def test_writer_that_does_not_finish(self, pair: PgVectorStore, admin: Admin) -> None:
        with admin.transaction():
            admin.execute("UPDATE dbo_blue SET payload = NULL WHERE object_id = 'o0000001'")
            with pytest.raises(TransientError, match="writers did not finish"), pair.hold_writers("blue", 0.2):
                pytest.fail("the block must not run")

    def test_writer_that_begins_with_parts_is_not_aborted(self, pair: PgVectorStore, admin: Admin) -> None:
        with admin.transaction():
            admin.execute("DELETE FROM dbop_blue WHERE object_id = 'o0000001'")
            # A lock on the parts would have to wait for this writer, who is about to wait for the objects.
            with pair.hold_writers("blue", 1):
                assert pair.open("blue").count() == 30
            admin.execute("DELETE FROM dbo_blue WHERE object_id = 'o0000001'")
        assert pair.open("blue").count() == 29

    def test_error_in_the_block_lets_writers_in(self, pair: PgVectorStore, admin: Admin) -> None:
        with pytest.raises(ZeroDivisionError), pair.hold_writers("blue", 1):
            _ = 1 / 0
        admin.execute("DELETE FROM dbop_blue")

    def test_lock_that_was_lost_is_noticed(self, pair: PgVectorStore, admin: Admin) -> None:
        with pytest.raises(TransientError), pair.hold_writers("blue", 1):
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' "
                "AND relation = 'dbo_blue'::regclass"
            )
