"""Writing a destination: complete or not at all, fenced, and never over what somebody else has written."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.vectors.model.collection import DestState, Embedded, SyncState
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector, writing
from airflow_reindex.vectors.stores.pgvector.collection import PgVectorCollection
from airflow_reindex.vectors.stores.pgvector.schema import Names
from sandbox.servers.postgres import Postgres
from tests.vectors.contract.samples import item, take
from tests.vectors.pgvector.helpers import (
    DIMENSIONS,
    Admin,
    all_rows,
    embedded,
    embedded_all,
    info,
    make_source,
    mark,
)


@pytest.fixture
def dest(store: PgVectorStore, admin: Admin) -> PgVectorCollection:
    """An empty destination with a claim."""
    take(store, "dst")
    store.create("token", info("dst"))
    return store.open("dst")


def contents(admin: Admin) -> list[Any]:
    """All that the destination has."""
    names = Names("dst")
    return [all_rows(admin, table) for table in (names.objects, names.parts, names.marks)]


class TestCreate:
    def test_layout(self, store: PgVectorStore, admin: Admin, dest: PgVectorCollection) -> None:
        make_source(admin, "src", 3)
        columns = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
        )
        for kind in ("dbo", "dbop"):
            of_source = admin.execute(columns, (f"{kind}_src",)).fetchall()
            assert admin.execute(columns, (f"{kind}_dst",)).fetchall() == of_source
        assert not dest.has_index()
        assert dest.info == info("dst") == store.find("dst")
        assert dest.count() == 0

    def test_again(self, store: PgVectorStore, dest: PgVectorCollection, admin: Admin) -> None:
        dest.put("token", embedded_all("ab"))
        store.create("token", info("dst"))
        assert dest.count() == 2
        indexes = "SELECT indexdef FROM pg_indexes WHERE tablename IN ('dbo_dst', 'dbop_dst', 'marks_dst')"
        found = admin.execute(indexes).fetchall()
        assert len(found) == len(set(found)) == 6

    def test_collection_of_embeddingstudio(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "dst", 2)
        take(store, "dst")
        store.create("token", info("dst"))
        assert store.find("dst") == info("dst")
        states = store.open("dst").states(None, None)
        assert [state.sync for state in states.values()] == [None, None]
        assert all(state.row for state in states.values())

    @pytest.mark.parametrize("changes", [{"dimensions": 2001}, {"dimensions": 0}, {"m": 1}, {"ef_construction": 20}])
    def test_what_cannot_be_indexed(self, store: PgVectorStore, changes: dict[str, Any]) -> None:
        take(store, "dst")
        with pytest.raises(RequestError, match="collection 'dst'"):
            store.create("token", info("dst", **changes))
        assert store.find("dst") is None

    def test_ids_are_ordered_as_in_the_source(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 0, collation="C")
        take(store, "dst")
        store.create("token", info("dst"))
        collations = admin.execute(
            "SELECT DISTINCT collname FROM pg_attribute a JOIN pg_collation c ON c.oid = attcollation "
            "WHERE attname = 'object_id' AND attrelid IN ('dbo_dst'::regclass, 'dbop_dst'::regclass, "
            "'airflow_reindex.marks_dst'::regclass)"
        ).fetchall()
        assert collations == [("C",)]


class TestPut:
    def test_objects_parts_and_marks(self, dest: PgVectorCollection, admin: Admin) -> None:
        long = "ö" * 128
        batch = [embedded(item("a", {"x": 1}, user_id="u", session_id="s"), 3), embedded(item(long), 1, seed=1)]
        assert dest.put("token", batch) == []
        parts = admin.execute(
            "SELECT part_id, object_id, vector::real[], is_average, user_id FROM dbop_dst ORDER BY object_id, part_id"
        ).fetchall()
        assert [part[:2] for part in parts[:4]] == [("a:0", "a"), ("a:1", "a"), ("a:2", "a"), ("a:average", "a")]
        assert [part[3:] for part in parts[:4]] == [(False, "u")] * 3 + [(True, "u")]
        assert np.array_equal(np.asarray([part[2] for part in parts[:3]], np.float32), batch[0].vectors)
        assert np.array_equal(np.asarray(parts[3][2], np.float32), batch[0].average)
        assert {part[0] for part in parts[4:]} == set(batch[1].part_ids)
        states = dest.states(None, None)
        assert states["a"].sync == mark()
        (back,) = dest.items(["a"])
        assert (back.payload, back.storage_meta, back.user_id, back.session_id) == ({"x": 1}, {"file": "a"}, "u", "s")
        assert back.version == states["a"].row

    def test_row_has_the_source_s_version(self, store: PgVectorStore, dest: PgVectorCollection, admin: Admin) -> None:
        make_source(admin, "src", 0)
        payload = '{"big": 123456789012345678901234567890.1000, "u": "\\u2028\\"", "n": {"a": [null, {}]}}'
        admin.execute("INSERT INTO dbo_src VALUES ('a', %s, 'null', NULL, 'u', '')", (payload,))
        admin.execute("INSERT INTO dbo_src VALUES ('b')")
        source = store.open("src")
        dest.put("token", [embedded(one) for one in source.items(["a", "b"])])
        assert dest.versions(None, None) == source.versions(None, None)
        assert dest.states(None, None)["a"] == DestState(
            source.versions(None, None)["a"], mark(source.items(["a"])[0].version)
        )

    @pytest.mark.parametrize(
        "bad",
        [
            embedded(item("x"), dimensions=DIMENSIONS + 1),
            Embedded(item("x"), np.full((1, DIMENSIONS), np.nan, np.float32), mark()),
            Embedded(item("x"), np.empty((0, DIMENSIONS), np.float32), mark()),
            embedded(item("x" * 129)),
            embedded(item("x\0")),
            embedded(item("x", payload_json="{")),
            embedded(item("x", payload_json='"\\u0000"')),
            embedded(item("a")),
        ],
        ids=["dimensions", "nan", "no-parts", "long-id", "nul", "json", "json-nul", "twice"],
    )
    def test_bad_item_leaves_nothing(self, dest: PgVectorCollection, admin: Admin, bad: Embedded) -> None:
        dest.put("token", embedded_all("a"))
        before = contents(admin)
        with pytest.raises(DataError):
            dest.put("token", [*embedded_all("ab", parts=4), bad])
        assert contents(admin) == before

    def test_nothing_to_do(self, dest: PgVectorCollection) -> None:
        assert dest.put("no claim", []) == []
        dest.fail("no claim", {})
        dest.delete("no claim", [])

    def test_vectors_go_out_in_blocks(self) -> None:
        blocks = list(writing.copy_blocks(embedded_all(map(str, range(3000))), DIMENSIONS))
        assert len(blocks) > 1
        assert blocks[0].startswith(b"PGCOPY\n\xff\r\n\0")


class TestFencing:
    def test_takeover_waits_for_a_write(
        self, store: PgVectorStore, dest: PgVectorCollection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside, go_on = threading.Event(), threading.Event()
        copy = writing.copy_parts

        def slow(*arguments: Any) -> None:
            inside.set()
            assert go_on.wait(120)
            copy(*arguments)

        monkeypatch.setattr(writing, "copy_parts", slow)
        with ThreadPoolExecutor(2) as pool:
            put = pool.submit(dest.put, "token", embedded_all("a"))
            assert inside.wait(120)
            taken = pool.submit(take, store, "dst", "heir")
            with pytest.raises(TimeoutError):
                taken.result(0.3)
            assert store.touch(store.claims()[0])  # signs of life do not wait
            go_on.set()
            put.result(120)
            taken.result(120)
        assert [one.token for one in store.claims()] == ["heir"]

    def test_killed_in_the_middle(
        self, dest: PgVectorCollection, admin: Admin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dest.put("token", embedded_all("ab", parts=5))
        before = contents(admin)
        copy = writing.copy_parts

        def killed(connection: Admin, *arguments: Any) -> None:
            copy(connection, *arguments)
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))

        with monkeypatch.context() as patch:
            patch.setattr(writing, "copy_parts", killed)
            with pytest.raises(TransientError):
                dest.put("token", embedded_all("abc", parts=2))
        assert contents(admin) == before
        dest.put("token", embedded_all("abc", parts=2))
        assert dest.count() == 3


class TestOnlyUnchanged:
    def put(self, dest: PgVectorCollection, *keys: str) -> list[str]:
        """Write as a catch-up does."""
        return dest.put("token", [embedded(item(key, "new"), parts=1) for key in keys], only_unchanged=True)

    def land(self, dest: PgVectorCollection, *keys: str) -> None:
        """Let items land with marks that describe their rows."""
        dest.put("token", embedded_all(keys))
        versions = dest.versions(None, None)
        dest.put("token", [embedded(item(key, version=versions[key]), parts=3) for key in keys])

    def test_what_others_did_stays(self, dest: PgVectorCollection, admin: Admin) -> None:
        self.land(dest, "a", "b", "c", "d")
        admin.execute("UPDATE dbo_dst SET payload = '\"theirs\"' WHERE object_id = 'a'")
        admin.execute("DELETE FROM dbop_dst WHERE object_id = 'b'")
        admin.execute("DELETE FROM dbo_dst WHERE object_id = 'b'")
        admin.execute("INSERT INTO dbo_dst VALUES ('e', '\"theirs\"')")
        marks = {key: state.sync for key, state in dest.states(None, None).items()}
        assert self.put(dest, "a", "b", "c", "e", "f") == ["a", "b", "e"]
        after = dest.states(None, None)
        assert {key: after[key].sync for key in "abde"} == {key: marks[key] for key in "abde"}
        assert {one.object_id: one.payload for one in dest.items("abcdef")} == {
            "a": "theirs",
            "c": "new",
            "d": None,
            "e": "theirs",
            "f": "new",
        }

    def test_writer_that_comes_in_between(
        self, dest: PgVectorCollection, admin: Admin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look = writing.sort_rows

        def late(*arguments: Any) -> Any:
            found = look(*arguments)
            admin.execute("INSERT INTO dbo_dst VALUES ('a', '\"theirs\"')")
            return found

        monkeypatch.setattr(writing, "sort_rows", late)
        assert self.put(dest, "a", "b") == ["a"]
        assert {one.object_id: one.payload for one in dest.items("ab")} == {"a": "theirs", "b": "new"}


class TestFailAndDamage:
    def test_failed_items(self, dest: PgVectorCollection) -> None:
        dest.put("token", embedded_all("abc"))
        why = SyncState(b"w" * 16, b"r", stage="on_upsert", detail="nul \0, half \ud83d, ü", plan_token="run-1")
        dest.fail("token", {"a": why, "z": why})
        dest.fail("token", {"b": why}, keep_rows=True)
        states = dest.states(None, None)
        assert (states["a"].row, states["z"].row) == (None, None)
        assert states["b"].row is not None
        assert states["a"].sync == SyncState(
            b"w" * 16, b"r", stage="on_upsert", detail="nul \ufffd, half ?, ü", plan_token="run-1"
        )
        assert (dest.count(), dest.count_failed("run-1"), dest.count_failed("run")) == (2, 3, 0)
        dest.put("token", embedded_all("a"))
        assert dest.count_failed("run-1") == 2

    def test_damage(self, dest: PgVectorCollection, admin: Admin) -> None:
        dest.put("token", embedded_all("abcde"))
        assert dest.integrity_errors(None, None).incomplete == ()
        admin.execute("DELETE FROM dbop_dst WHERE part_id IN ('b:average', 'c:0', 'c:1', 'd:0')")
        admin.execute("DELETE FROM dbop_dst WHERE object_id = 'e'")
        admin.execute("INSERT INTO dbo_dst VALUES ('copy', NULL, NULL, 'a', 'u')")
        assert dest.integrity_errors(None, None).incomplete == ("b", "c", "e")
        assert dest.integrity_errors("b", "d").incomplete == ("c",)
        admin.execute("DELETE FROM dbo_dst WHERE object_id = 'a'")
        assert dest.integrity_errors(None, None).orphans == 3
        assert dest.integrity_errors("a", None).orphans == 0

    def test_damage_is_cut(self, dest: PgVectorCollection, admin: Admin) -> None:
        admin.execute("INSERT INTO dbo_dst SELECT i::text FROM generate_series(1, 150) i")
        assert len(dest.integrity_errors(None, None).incomplete) == 100


def test_server_that_goes_away_and_comes_back(postgres: Postgres, admin: Admin, dest: PgVectorCollection) -> None:
    dest.put("token", embedded_all("a"))
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'airflow-reindex' "
        "AND datname = current_database()"
    )
    with pytest.raises(TransientError):
        dest.count()
    assert dest.count() == 1


def test_no_connection_stays_in_a_transaction(postgres: Postgres, store: PgVectorStore, admin: Admin) -> None:
    make_source(admin, "src", 100, index=False)
    keys = store.open("src").keys(10)
    next(keys)
    states = admin.execute(
        "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'airflow-reindex' "
        "AND datname = current_database()"
    ).fetchall()
    assert states == [("idle",)]


def test_connector_takes_parameters(postgres: Postgres, database: str) -> None:
    with connector(postgres.connection_uri(database), application_name="mine")() as connection:
        row = connection.execute("SHOW application_name").fetchone()
    assert row == ("mine",)
