"""kill -9 of PostgreSQL at given moments of a reindex: a retry of the same step does what is left, and no more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from _pytest.mark import ParameterSet

from airflow_reindex.vectors.model.store import Pointer
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.faults.moving import connect
from tests.support.collection_contents import assert_moved, assert_vectors, follower, keys_seen
from tests.support.reindex import DIMENSIONS, NEW, OLD, Factory, Reindex, make_source, rows_of, texts
from tests.support.task_process import TaskProcess
from tests.support.wait import wait_until

ITEMS = 600
WRITE = "airflow_reindex.vectors.stores.pgvector"
#: Moments of a window: its third batch is about to begin, or has written some of its tables.
WRITES = {
    "between two batches": f"{WRITE}.collection:PgVectorCollection.put",
    "rows without parts": f"{WRITE}.writing:copy_parts",
    "parts without marks": f"{WRITE}.writing:upsert_marks",
}
#: Moments of a switch, and whom readers follow after the crash.
SWITCHES = {
    "writers are held": ("airflow_reindex.vectors.cutover.switch:_repoint", OLD),
    "views in mid-transaction": (f"{WRITE}.aliases:point", OLD),
    "views are switched": ("airflow_reindex.vectors.cutover.switch:note_hooked", NEW),
}


def one_of(moments: Iterable[str], quick: str) -> list[ParameterSet]:
    """All moments; those but one are for `make faults`."""
    return [pytest.param(name, marks=() if name == quick else pytest.mark.slow_fault) for name in moments]


@pytest.fixture
def make(mortal: Postgres, tmp_path: Path) -> Iterator[Factory]:
    """A factory of runs; each has a database with a source of its own, whose readers follow an alias."""
    made: list[str] = []
    with EmbeddingServer(DIMENSIONS) as server:

        def factory(**params: Any) -> Reindex:
            made.append(f"mortal_{len(made)}")
            mortal.create_database(made[-1])
            with mortal.connect(made[-1]) as admin:
                make_source(admin, texts(ITEMS))
            run = Reindex(mortal, made[-1], server, tmp_path / made[-1], batch_size=ITEMS, **params)
            with run.tools() as tools:
                tools.store.prepare()
                tools.store.repoint(Pointer(alias="products", collection_id=OLD, embedding_model_id=OLD), None)
            return run

        yield factory
    for name in made:
        mortal.drop_database(name)


def crash(run: Reindex, task: TaskProcess) -> None:
    """Kill the server while a task is at its moment; the task must say that a retry helps. Start the server again."""
    run.postgres.kill()
    assert not run.postgres.is_running()
    task.release()
    assert task.result().startswith("TransientError: ")
    run.postgres.up(owner_pid=os.getpid())


def assert_readers_follow(run: Reindex, collection_id: str) -> None:
    """Readers of the alias see all items of a collection."""
    assert follower(run) == collection_id
    with connect(run) as admin:
        assert keys_seen(admin, "products") == texts(ITEMS).keys()
        if collection_id == NEW:
            assert_vectors(admin, NEW)


def ann_indexes(admin: psycopg.Connection[Any]) -> list[tuple[bool, bool]]:
    """Each ANN index of the destination: whether it is valid and ready."""
    return admin.execute(
        "SELECT indisvalid, indisready FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'dbop_new_model'::regclass AND relam = (SELECT oid FROM pg_am WHERE amname = 'hnsw')"
    ).fetchall()


@pytest.mark.parametrize("moment", one_of(WRITES, "rows without parts"))
def test_server_dies_in_mid_upsert(make: Factory, moment: str) -> None:
    run = make(deploy_as_blue=True, alias="products")
    run.plan()
    with TaskProcess(run, "window", 0, at=WRITES[moment], call=3) as task:
        task.wait()
        crash(run, task)
    assert_readers_follow(run, OLD)
    with connect(run) as admin:
        landed = rows_of(admin, NEW).keys()
        # Whole batches, with all that belongs to them.
        assert 0 < len(landed) < ITEMS
        assert_vectors(admin, NEW)
        marked = admin.execute("SELECT object_id FROM airflow_reindex.marks_new_model WHERE stage = ''").fetchall()
        assert {key for (key,) in marked} == landed
    before = run.embedded()
    run.windows()
    after = run.embedded()
    there = {texts(ITEMS)[key]["text"] for key in landed}
    assert all(after[text] == before[text] for text in there), "what had landed was embedded again"
    run.verify()
    run.switch()
    assert_readers_follow(run, NEW)
    with connect(run) as admin:
        assert_moved(admin)
    report = run.report()
    assert (report["status"], report["count"], report["failed"]) == ("done", ITEMS, 0)


def test_server_dies_in_mid_index_build(make: Factory) -> None:
    run = make(deploy_as_blue=True, alias="products")
    run.plan()
    run.windows()
    with connect(run) as admin:
        # So that it takes seconds.
        admin.execute(
            "INSERT INTO dbop_new_model (part_id, object_id, vector, is_average) SELECT 'x' || n, 'o000000', "
            "ARRAY[random(), random(), random(), random(), random(), random(), random(), 1]::vector(8), false "
            "FROM generate_series(1, 60000) n"
        )
        with TaskProcess(run, "verify") as task:
            building = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'building index%'"
            wait_until(lambda: admin.execute(building).fetchone())
            run.postgres.kill()
            assert task.result().startswith("TransientError: ")
    run.postgres.up(owner_pid=os.getpid())
    assert_readers_follow(run, OLD)
    embedded = run.embedded()
    with connect(run) as admin:
        assert ann_indexes(admin) == []
        # As the next try finds it, the collection has no foreign parts.
        admin.execute("DELETE FROM dbop_new_model WHERE part_id LIKE 'x%'")
    run.verify()
    assert run.embedded() == embedded, "a server's crash is no reason to embed anything again"
    with connect(run) as admin:
        assert ann_indexes(admin) == [(True, True)]
        assert_moved(admin)
    run.switch()
    assert_readers_follow(run, NEW)
    assert run.report()["status"] == "done"


@pytest.mark.parametrize("moment", one_of(SWITCHES, "views in mid-transaction"))
def test_server_dies_in_the_switch(make: Factory, moment: str) -> None:
    run = make(deploy_as_blue=True, alias="products").to_switch()
    at, following = SWITCHES[moment]
    embedded = run.embedded()
    with TaskProcess(run, "switch", at=at) as task:
        task.wait()
        crash(run, task)
    assert_readers_follow(run, following)
    with connect(run) as admin:
        # Writers are not held by a dead server's lock.
        admin.execute("""UPDATE dbo_old_model SET user_id = 'me' WHERE object_id = 'o000001'""")
    run.switch()
    assert_readers_follow(run, NEW)
    pointer = run.store().pointer("products")
    assert pointer is not None
    assert (pointer.previous_collection_id, pointer.hooked) == (OLD, True)
    again = {text for text, times in run.embedded().items() if times != embedded[text]}
    assert again <= {"text number 1"}, "more was embedded again than what was written meanwhile"
    with connect(run) as admin:
        # That write came before the switch had ended: it is not lost.
        assert_moved(admin)
    assert run.report()["status"] == "done"
