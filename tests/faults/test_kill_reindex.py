"""SIGKILL of a reindex's tasks and of its database at any moment: done again, it ends as if nothing had happened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from airflow_reindex.core.failures import TransientError
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.faults.contents import note
from tests.faults.moving import connect
from tests.support.collection_contents import assert_moved, assert_vectors, follower, keys_seen
from tests.support.reindex import DIMENSIONS, NEW, OLD, Factory, Reindex, make_source, rows_of, texts
from tests.support.task_process import WRITE_PARTS, TaskProcess
from tests.support.wait import wait_until

ITEMS, KILLS = 1500, 4
#: What a killed task may have embedded in vain: one batch, and what its threads hold besides.
IN_VAIN = WRITE_PARTS + 2 * 4 * 16 + 16


@pytest.fixture
def shaky(mortal: Postgres, tmp_path: Path) -> Iterator[Factory]:
    """A factory of runs; each has a database with a source of its own."""
    made: list[str] = []
    with EmbeddingServer(DIMENSIONS) as server:

        def make(**params: Any) -> Reindex:
            made.append(f"killed_{len(made)}")
            mortal.create_database(made[-1])
            with mortal.connect(made[-1]) as admin:
                make_source(admin, texts(ITEMS))
            params = {"batch_size": 500, **params}
            return Reindex(mortal, made[-1], server, tmp_path / made[-1], **params)

        yield make
    for name in made:
        mortal.drop_database(name)


def contents(run: Reindex) -> tuple[list[Any], ...]:
    """All that a destination holds: rows, parts, and marks but for whose they are."""
    with connect(run) as admin:
        return (
            admin.execute("SELECT * FROM dbo_new_model ORDER BY 1").fetchall(),
            admin.execute("SELECT * FROM dbop_new_model ORDER BY 1").fetchall(),
            admin.execute(
                "SELECT object_id, version, recipe, content, stage FROM airflow_reindex.marks_new_model ORDER BY 1"
            ).fetchall(),
        )


def landed(run: Reindex) -> set[str]:
    """The texts of the destination's rows."""
    with connect(run) as admin:
        return {payload["text"] for payload, _ in rows_of(admin, NEW).values()}


def settle(run: Reindex) -> None:
    """Until the server has answered what a dead client asked."""
    run.server.latency = 0.0
    time.sleep(0.2)


def test_killed_windows_embed_again_only_what_was_on_its_way(shaky: Factory, chance: Random) -> None:
    undisturbed, run = shaky(), shaky()
    undisturbed.run()
    before = sum(run.embedded().values())
    run.plan()
    run.server.latency = 0.03
    seconds = TaskProcess.ready(run, "window", 0).finish()
    killed = 0
    for number in (1, 2):
        for _ in range(KILLS // 2):
            run.server.latency = 0.03
            killed += TaskProcess.ready(run, "window", number).kill_after(chance.uniform(0.1, 0.8 * seconds))
            settle(run)
        counts, there = run.embedded(), landed(run)
        run.window(number)
        after = run.embedded()
        assert all(after[text] == counts[text] for text in there), "what had landed was embedded again"
    run.verify()
    note(f"{killed} of {KILLS} kills struck; a window takes {seconds:.1f} s")
    assert sum(run.embedded().values()) - before <= ITEMS + killed * IN_VAIN + 1
    assert contents(run) == contents(undisturbed)
    assert run.report()["status"] == "done"


def test_killed_verification(shaky: Factory, chance: Random) -> None:
    undisturbed, run = shaky(), shaky()
    undisturbed.plan()
    undisturbed.windows()
    seconds = TaskProcess.ready(undisturbed, "verify").finish()
    run.plan()
    run.windows()
    killed = sum(TaskProcess.ready(run, "verify").kill_after(chance.uniform(0, seconds)) for _ in range(KILLS))
    note(f"{killed} of {KILLS} kills struck; the verification takes {seconds:.1f} s")
    run.verify()
    assert contents(run) == contents(undisturbed)
    assert run.report()["status"] == "done"
    with connect(run) as admin:
        indexes = admin.execute(
            "SELECT count(*), bool_and(indisvalid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'hnsw')"
        ).fetchone()
    assert indexes == (1, True)


def test_killed_while_the_index_is_built(shaky: Factory) -> None:
    """The server goes on for a while, and the next try must not fail because of that."""
    run = shaky()
    run.plan()
    run.windows()
    with connect(run) as admin:
        # So that it takes seconds.
        admin.execute(
            "INSERT INTO dbop_new_model (part_id, object_id, vector, is_average) SELECT 'x' || n, 'o000000', "
            "ARRAY[random(), random(), random(), random(), random(), random(), random(), 1]::vector(8), false "
            "FROM generate_series(1, 60000) n"
        )
        task = TaskProcess(run, "verify")
        building = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'building index%'"
        wait_until(lambda: admin.execute(building).fetchone())
        assert task.kill()
        admin.execute("""UPDATE dbo_old_model SET payload = '{"text": "changed"}' WHERE object_id = 'o000000'""")
        run.verify()
        # The change has replaced all parts of that object.
        assert_moved(admin)
    assert run.report()["status"] == "done"


def verified(shaky: Factory, **params: Any) -> Reindex:
    """A run that has verified, whose readers see the old collection."""
    return shaky(deploy_as_blue=True, alias="products", **params).to_switch()


def assert_readers_see_a_whole_collection(run: Reindex) -> str:
    """The views, and what the registry says of them."""
    seen = follower(run)
    with connect(run) as admin:
        if seen == "":
            assert admin.execute("SELECT to_regclass('dbo_products')").fetchone() == (None,)
            return seen
        assert keys_seen(admin, "products") == texts(ITEMS).keys()
        sizes = admin.execute("SELECT DISTINCT vector_dims(vector) FROM dbop_products").fetchall()
        assert sizes == [(DIMENSIONS[seen],)]
        assert_vectors(admin, seen)
    return seen


_STORE = "airflow_reindex.vectors.stores.pgvector:PgVectorStore"
#: When a switch may die: a function, which call of it (the first one repoints, the second notes that the hook has been
#: told), and whether that has returned. Readers are where they were until the views are replaced.
MOMENTS = {
    "before the views": (f"{_STORE}.repoint", 1, False),
    "after the views": (f"{_STORE}.repoint", 1, True),
    "in the hook": ("tests.support.reindex:Reindex.hook", 1, False),
    "before the note": (f"{_STORE}.repoint", 2, False),
    "after the note": (f"{_STORE}.repoint", 2, True),
    "after the drop": (f"{_STORE}.drop", 1, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_switch_killed_at_each_of_its_steps(shaky: Factory, moment: str) -> None:
    run = verified(shaky, delete_source=True)
    at, call, after = MOMENTS[moment]
    with TaskProcess(run, "switch", at=at, call=call, after=after) as task:
        assert task.wait().kill()
    seen = assert_readers_see_a_whole_collection(run)
    assert seen == ("" if moment == "before the views" else NEW)
    with connect(run) as admin:
        # Writers are not kept from the source by a dead task.
        if moment != "after the drop":
            admin.execute("""UPDATE dbo_old_model SET user_id = 'me' WHERE object_id = 'o000001'""")
    run.switch()
    assert assert_readers_see_a_whole_collection(run) == NEW
    assert run.store().find(OLD) is None
    assert len(run.hooked) == (0 if moment in ("after the note", "after the drop") else 1)
    with connect(run) as admin:
        late = admin.execute("SELECT user_id FROM dbo_products WHERE object_id = 'o000001'").fetchone()
    # What was written before the switch had ended is not lost.
    assert late == (None if moment in ("after the note", "after the drop") else "me",)
    assert run.report()["status"] == "done"


def test_a_switch_killed_at_random_moments(shaky: Factory, chance: Random) -> None:
    model = verified(shaky)
    seconds = TaskProcess.ready(model, "switch").finish()
    run = verified(shaky)
    killed = 0
    for _ in range(KILLS):
        killed += TaskProcess.ready(run, "switch").kill_after(chance.uniform(0, seconds))
        seen = assert_readers_see_a_whole_collection(run)
        assert seen in ("", NEW)
    note(f"{killed} of {KILLS} kills struck; the switch takes {seconds:.1f} s")
    run.switch()
    assert assert_readers_see_a_whole_collection(run) == NEW
    with connect(run) as admin:
        assert_moved(admin)
    assert contents(run) == contents(model)


def test_a_database_that_is_killed_in_mid_window(shaky: Factory, mortal: Postgres, chance: Random) -> None:
    run = shaky()
    run.plan()
    run.server.latency = 0.03
    struck = 0
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            work = pool.submit(run.window, 0)
            time.sleep(chance.uniform(0.1, 0.7))
            mortal.kill()
            error = work.exception(30)
            struck += error is not None
            # A retry helps, and the error says so.
            assert error is None or isinstance(error, TransientError), error
            mortal.up(owner_pid=os.getpid())
    settle(run)
    note(f"{struck} of 2 kills struck")
    counts, there = run.embedded(), landed(run)
    run.windows()
    after = run.embedded()
    assert all(after[text] == counts[text] for text in there), "what had landed was embedded again"
    run.verify()
    with connect(run) as admin:
        assert_moved(admin)
    assert run.report()["status"] == "done"


def strike(run: Reindex, step: str, number: int | None, at: str, seconds: float, chance: Random) -> bool:
    """Kill a task some time after it has come to a function; whether it was still at work."""
    with TaskProcess(run, step, number, at=at) as task:
        return task.wait().kill_after(chance.uniform(0, seconds))


@pytest.mark.parametrize("kills", [1, pytest.param(7, marks=pytest.mark.slow_fault)])
def test_killed_all_its_life(shaky: Factory, chance: Random, kills: int) -> None:
    """Each of the six tasks is killed so often, at any moment of its life."""
    model, run = (shaky(deploy_as_blue=True, alias="products") for _ in range(2))
    seconds: dict[str, float] = {}
    steps = [("plan", None), *(("window", number) for number in range(3)), ("verify", None), ("switch", None)]
    for step, number in steps:
        began = time.monotonic()
        getattr(model, step)(*([] if number is None else [number]))
        seconds[step] = time.monotonic() - began
        struck = 0
        for _ in range(kills):
            at = f"tests.support.reindex:Reindex.{step}"
            struck += strike(run, step, number, at, 1.2 * seconds[step], chance)
            seen = assert_readers_see_a_whole_collection(run)
            assert seen in (("",) if step != "switch" else ("", NEW))
        note(f"{step}: {struck} of {kills} kills struck within {seconds[step]:.2f} s")
        counts, there = run.embedded(), landed(run) if step == "window" else set()
        getattr(run, step)(*([] if number is None else [number]))
        after = run.embedded()
        assert all(after[text] == counts[text] for text in there), "what had landed was embedded again"
    assert assert_readers_see_a_whole_collection(run) == NEW
    assert contents(run) == contents(model)
    assert run.report()["status"] == "done"


#: Where the narrow windows begin, and about how long they last.
WINDOWS = {
    "the claim": ("plan", "airflow_reindex.vectors.stores.pgvector.registry:take_claim", 0.02),
    "the switch's lock": ("switch", "airflow_reindex.vectors.cutover.switch:last_catch_up", 0.05),
    "the views": ("switch", "airflow_reindex.vectors.cutover.switch:_repoint", 0.02),
}


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow_fault)])
@pytest.mark.parametrize("window", WINDOWS)
def test_killed_in_a_narrow_window(shaky: Factory, chance: Random, window: str, kills: int) -> None:
    step, at, seconds = WINDOWS[window]
    run = shaky(deploy_as_blue=True, alias="products")
    struck = 0
    if step != "plan":
        run.to_switch()
    for _ in range(kills):
        if step == "switch" and assert_readers_see_a_whole_collection(run) == NEW:
            # Switched before it died: a retry finishes it, and another run moves to the same place again.
            run.switch()
            run = verified(shaky)
        struck += strike(run, step, None, at, seconds, chance)
        assert assert_readers_see_a_whole_collection(run) in (("",) if step == "plan" else ("", NEW))
        assert len(run.store().claims()) <= 1
    note(f"{window}: {struck} of {kills} kills struck")
    if step == "plan":
        run.to_switch()
    run.switch()
    assert assert_readers_see_a_whole_collection(run) == NEW
    with connect(run) as admin:
        assert_moved(admin)
    assert run.report()["status"] == "done"
