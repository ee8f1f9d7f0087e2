"""Writers go on while a collection is moved: in the end nothing is missed, twice, older than it should be, or back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

import psycopg
import pytest

from airflow_reindex.core.failures import TransientError
from airflow_reindex.vectors import steps
from airflow_reindex.vectors.cutover import recall
from airflow_reindex.vectors.model.store import Pointer
from sandbox.servers.postgres import Postgres
from tests.support.collection_contents import (
    add_item,
    assert_moved,
    assert_vectors,
    follower,
    remove_item,
    waiting_for_lock,
)
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, rows_of, spec_of, texts
from tests.support.wait import wait_until


@dataclass
class Writer:
    """
    An application that inserts, updates and deletes in the source until it is told to stop.

    :param connection: its own.
    :param chance: what it writes where.
    :param items: how many there were in the beginning.
    :param at_once: rows a statement.
    :param pause: seconds between two transactions.
    :param most: transactions in all, as on a machine with too few cores nothing would ever catch up with it.
    """

    connection: Admin
    chance: Random
    items: int = 40
    at_once: int = 20
    pause: float = 0.0
    most: int = 3_000
    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("inserted", "updated", "deleted"), 0))
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def __enter__(self) -> Writer:
        self._thread = threading.Thread(target=self._run, name="writer")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert self._thread is not None
        self._thread.join(180)
        self.connection.close()
        assert not self._thread.is_alive()
        assert self._error is None, self._error

    def stop(self) -> None:
        """Let it end its transaction, and no more; a hook of a switch may call it."""
        self._stop.set()

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.is_set() and number < self.most:
                number += 1
                self._transact(number)
                time.sleep(self.pause)
        except BaseException as error:
            self._error = error

    def _transact(self, number: int) -> None:
        with self.connection.transaction():
            self._write(number)

    def _write(self, number: int) -> None:
        # Keys before, inside and after those that were there: "a...", "o001234x...", "z...".
        places = [self.chance.choice(("a", f"o{self.chance.randrange(self.items):06}x", "z")) for _ in range(5)]
        inserted = [f"{place}{number}-{one}" for one, place in enumerate(places)]
        self.done["inserted"] += self.connection.execute(
            "INSERT INTO dbo_old_model (object_id, payload) SELECT key, jsonb_build_object('text', 'new ' || key) "
            "FROM unnest(%s::text[]) AS key",
            (inserted,),
        ).rowcount
        self.done["updated"] += self.connection.execute(
            "UPDATE dbo_old_model SET payload = payload || jsonb_build_object('text', %s || object_id) "
            "WHERE object_id = ANY(%s)",
            (f"change {number} of ", self._some()),
        ).rowcount
        self.done["deleted"] += self.connection.execute(
            "DELETE FROM dbo_old_model WHERE object_id = ANY(%s)", (self._some(),)
        ).rowcount

    def _some(self) -> list[str]:
        return [f"o{self.chance.randrange(self.items):06}" for _ in range(self.at_once)]


class Stopper(list[Pointer]):
    """A hook that tells a writer, as a deployment's does, that the old collection is not written to any more."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def append(self, pointer: Pointer) -> None:
        """Called by the switch."""
        self._writer.stop()
        super().append(pointer)


def move_under(run: Reindex, writer: Writer) -> None:
    """A whole run while a writer writes, until the hook of the switch stops it."""
    with writer:
        run.hooked = Stopper(writer)
        run.to_switch()
        run.switch()
    assert min(writer.done.values()) > 100, "the writer was hardly at work"


def test_a_large_table_under_writers(
    admin: Admin, reindex: Factory, vectors: str, postgres: Postgres, chance: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger than a quarter of shared_buffers, where PostgreSQL starts a scan in the middle and OFFSET loses rows."""
    make_source(admin, {key: {**payload, "pad": "x" * 1_000} for key, payload in texts(40_000).items()})
    assert admin.execute(
        "SELECT pg_relation_size('dbo_old_model') > pg_size_bytes(current_setting('shared_buffers')) / 4, "
        "current_setting('synchronize_seqscans')"
    ).fetchone() == (True, "on")
    # The quality of the graph is not what this test is about: a poor one is built quickly.
    admin.execute(
        "CREATE INDEX ON dbop_old_model USING hnsw (vector vector_cosine_ops) WITH (m = 2, ef_construction = 4)"
    )
    monkeypatch.setattr(recall, "SAMPLE", 1)
    # What windows have missed is then left to the switch.
    monkeypatch.setattr(steps, "CATCH_UPS", 1)
    run = reindex(deploy_as_blue=True, alias="products", batch_size=4_000)
    run.specs[NEW] = spec_of(NEW, run.server, batch_size=500, options={"encoding_format": "base64"})
    run.least_recall = 0.0
    move_under(run, Writer(postgres.connect(vectors), chance, 40_000, pause=0.04))
    assert_moved(admin)
    report = run.report()
    assert (report["status"], report["failed"]) == ("done", 0)
    # The account is of the moment of the switch; what came later is told apart.
    assert report["total"] == report["notes"]["switch"]["items"]


@pytest.mark.parametrize("number", range(2))
def test_a_small_table_under_a_busy_writer(
    admin: Admin, reindex: Factory, vectors: str, postgres: Postgres, chance: Random, number: int
) -> None:
    """Hundreds of writes a second, to keys that windows are at, with latency between reading and writing."""
    make_source(admin, texts(1000))
    run = reindex(deploy_as_blue=True, alias="products", batch_size=200)
    run.server.latency = 0.01
    writer = Writer(postgres.connect(vectors), chance, 1000, at_once=3, pause=0.01)
    move_under(run, writer)
    assert_moved(admin)
    # Texts differ with each change, so this is not about those that were embedded anew.
    most = max(count for text, count in run.embedded().items() if text.startswith("text number"))
    assert most == 1, "an item that did not change was embedded twice"


class Redirected(Writer):
    """An application that asks the registry before each write, and writes to the collection that readers see."""

    truth: ClassVar[dict[str, str | None]] = {}

    def _transact(self, number: int) -> None:
        try:
            super()._transact(number)
        except psycopg.errors.ForeignKeyViolation:
            # Between its two deletes a late write of the old collection brought parts, as another writer might have.
            super()._transact(number)

    def _write(self, number: int) -> None:
        row = self.connection.execute(
            "SELECT collection_id FROM airflow_reindex.aliases WHERE alias = 'products'"
        ).fetchone()
        key = f"o{self.chance.randrange(40):06}"
        if self.chance.random() < 0.3:
            remove_item(self.connection, row[0] if row else OLD, key)
            self.truth[key] = None
            self.done["deleted"] += 1
        else:
            add_item(self.connection, row[0] if row else OLD, key, f"change {number}")
            self.truth[key] = f"change {number}"
            self.done["updated"] += 1
        self.done["inserted"] += 1


@pytest.mark.parametrize("number", range(3))
def test_a_writer_that_follows_the_alias_loses_nothing(
    admin: Admin, reindex: Factory, vectors: str, postgres: Postgres, chance: Random, number: int
) -> None:
    """Its last write may have waited for the switch with the old collection in mind, and newer ones came since."""
    make_source(admin, texts(40))
    run = reindex(deploy_as_blue=True, alias="products")
    run.plan()
    writer = Redirected(postgres.connect(vectors), chance)
    writer.truth.clear()
    with writer:
        run.windows()
        run.verify()
        run.switch()
        before = writer.done["inserted"]
        wait_until(lambda: writer.done["inserted"] > before + 50)
    expected = {**{key: payload["text"] for key, payload in texts(40).items()}, **writer.truth}
    found = {key: payload["text"] for key, (payload, _) in rows_of(admin, NEW).items()}
    assert found == {key: text for key, text in expected.items() if text is not None}
    assert_vectors(admin)


def test_a_writer_that_does_not_end_keeps_readers_where_they_are(
    admin: Admin, reindex: Factory, vectors: str, postgres: Postgres
) -> None:
    make_source(admin, texts(40))
    run = reindex(deploy_as_blue=True, alias="products").to_switch()
    run.store().repoint(Pointer(alias="products", collection_id=OLD, embedding_model_id=OLD), None)
    with postgres.connect(vectors) as writer, writer.transaction():
        writer.execute("""UPDATE dbo_old_model SET payload = '{"text": "late"}' WHERE object_id = 'o000001'""")
        with pytest.raises(TransientError, match="writers did not finish within 2 s"):
            run.switch()
        assert follower(run) == OLD
        # Others may write again.
        admin.execute("""UPDATE dbo_old_model SET payload = '{"text": "other"}' WHERE object_id = 'o000002'""")
    assert run.report()["status"] == "failed"
    run.switch()
    assert follower(run) == NEW
    assert_moved(admin)
    assert run.report()["status"] == "done"


@dataclass
class Reader:
    """Reads the alias again and again; each look is one transaction."""

    connection: Admin
    looks: list[tuple[int, int, str]] = field(default_factory=list)
    longest: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until it is told to stop."""
        while not self.stop.is_set():
            began = time.monotonic()
            with self.connection.transaction():
                # Whoever has looked at a view keeps it until the end of the transaction.
                rows = self.connection.execute("SELECT count(*) FROM dbo_products").fetchone()
                size = self.connection.execute("SELECT vector_dims(vector) FROM dbop_products LIMIT 1").fetchone()
                where = self.connection.execute(
                    "SELECT collection_id FROM airflow_reindex.aliases WHERE alias = 'products'"
                ).fetchone()
            self.longest = max(self.longest, time.monotonic() - began)
            assert rows is not None
            assert size is not None
            assert where is not None
            self.looks.append((rows[0], size[0], where[0]))


def test_readers_go_over_at_once_and_are_not_kept_waiting(
    admin: Admin, reindex: Factory, vectors: str, postgres: Postgres
) -> None:
    make_source(admin, texts(200))
    add_item(admin, OLD, "o000000", "text number 0")
    run = reindex(deploy_as_blue=True, alias="products")
    run.plan()
    run.store().repoint(Pointer(alias="products", collection_id=OLD, embedding_model_id=OLD), None)
    run.windows()
    run.verify()
    readers = [Reader(postgres.connect(vectors)) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        working = [pool.submit(reader.run) for reader in readers]
        wait_until(lambda: all(reader.looks for reader in readers))
        run.switch()
        seen = [len(reader.looks) for reader in readers]
        wait_until(lambda: all(len(r.looks) > count for r, count in zip(readers, seen, strict=True)))
        for reader in readers:
            reader.stop.set()
        for future in working:
            future.result()
    for reader in readers:
        reader.connection.close()
        # All rows at each look, and vectors of the model that the registry names.
        assert set(reader.looks) == {(200, 4, OLD), (200, 8, NEW)}
        assert reader.looks == sorted(reader.looks), "nobody goes back"
        assert reader.longest < 3


def test_the_switch_waits_for_a_reader_without_blocking_others(
    admin: Admin, reindex: Factory, vectors: str, postgres: Postgres
) -> None:
    make_source(admin, texts(20))
    add_item(admin, OLD, "o000000", "text number 0")
    run = reindex(deploy_as_blue=True, alias="products")
    run.plan()
    run.store().repoint(Pointer(alias="products", collection_id=OLD, embedding_model_id=OLD), None)
    run.windows()
    run.verify()
    other = Reader(postgres.connect(vectors))
    with ThreadPoolExecutor() as pool, postgres.connect(vectors) as slow:
        with slow.transaction():
            slow.execute("SELECT 1 FROM dbo_products")
            switching = pool.submit(run.switch)
            reading = pool.submit(other.run)
            wait_until(lambda: waiting_for_lock(admin, "dbo_products"))
            # Longer than the switch keeps others waiting at a time.
            time.sleep(1.5)
            assert not switching.done()
        switching.result(180)
        other.stop.set()
        reading.result()
    assert follower(run) == NEW
    # Behind the switch, which gives up after less than a second, and lets them through.
    assert other.longest < 3
    other.connection.close()
