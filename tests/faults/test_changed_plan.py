"""Settings, catalogs, models that change between a failure and the next try: refused or planned anew, never mixed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from airflow_reindex.core.failures import DataError, ReindexError, RequestError
from airflow_reindex.director import steps
from airflow_reindex.director.model.records import read_plan, read_split
from airflow_reindex.vectors import steps as reindex_steps
from sandbox.catalog.catalog import CatalogSpec
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import Changing
from tests.faults.moving import ITEMS, assert_readers_follow, claimants, connect
from tests.support.build import Build, run_sql
from tests.support.collection_contents import assert_moved, finish
from tests.support.reindex import NEW, OLD, Factory, spec_of

SPEC = CatalogSpec(database="sky_replanned", rows=12_000, chunks=12, empty_chunks=0)
MEMORY = 512 << 20


@pytest.fixture
def sky(shaky: Sandbox) -> Changing:
    """A catalog of the test's own, with a live index that is out of date."""
    return Changing(shaky, SPEC)


def test_other_size_of_tasks_from_the_split_on(
    sky: Changing, build: Callable[..., Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Build, "slice_rows", 500)
    run = build()
    run.to_load()
    run.load(0)
    old = read_split(run.folder)
    run.rows_per_task = 1_200
    before = sky.proof()
    new = run.split()
    assert len(new.ranges) > len(old.ranges)
    assert new.build != old.build
    with pytest.raises(RequestError, match="the split is not the one this task was made for: clear this run from"):
        steps.load_range(run.servers, run.folder, read_plan(run.folder, run.plan_made.token), old.build, 0, MEMORY)
    run.load_all()
    assert sky.proof() == before
    assert run.publish().rows == SPEC.rows
    sky.check_done(run)


def test_other_size_of_tasks_from_the_plan_on(sky: Changing, build: Callable[..., Build]) -> None:
    run = build()
    old = run.plan()
    run.extract(0)
    run.rows_per_task = 3_000
    before = sky.proof()
    new = run.plan()
    assert new.token != old.token
    with pytest.raises(ReindexError, match="not the one this task was made for: clear this run from its task 'plan'"):
        steps.extract_group(run.servers, run.folder, read_plan(run.folder, old.token), 1, MEMORY)
    run.extract_all()
    assert len(run.staged_chunks()) == len(set(run.staged_chunks()))
    run.split()
    run.load_all()
    assert sky.proof() == before
    assert run.publish().rows == SPEC.rows
    sky.check_done(run)


def move(sky: Changing, chunk: int) -> str:
    """Move a chunk to the other worker, as Qserv's replication system does; where it was."""
    source = sky.placement[chunk]
    (dest,) = [name for name in sky.sandbox.workers if name != source]
    table = f"`{SPEC.database}`.`Object_{chunk}`"
    ((_, definition),) = run_sql(sky.sandbox.workers[source], f"SHOW CREATE TABLE {table}")
    rows = run_sql(sky.sandbox.workers[source], f"SELECT * FROM {table}")
    with closing(sky.sandbox.workers[dest].connect(database=SPEC.database)) as connection:
        connection.query(definition)
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
    where = f"`database` = '{SPEC.database}' AND chunk = {chunk}"
    run_sql(sky.sandbox.czar, f"UPDATE qservReplica.replica SET worker = '{dest}' WHERE {where}")
    run_sql(sky.sandbox.workers[source], f"DROP TABLE {table}")
    sky.placement[chunk] = dest
    return source


@pytest.mark.parametrize("staged", [False, True], ids=["not read yet", "read already"])
def test_chunk_that_moves_to_another_worker(sky: Changing, build: Callable[..., Build], staged: bool) -> None:
    first, second = build("first"), build("second")
    plan = first.plan()
    group = 0 if staged else len(plan.groups) - 1
    first.extract(0)
    chunk = next(one.chunk for one in first.plan_made.groups[group] if one.chunk in sky.placement)
    assert (chunk in first.staged_chunks()) == staged
    source = move(sky, chunk)
    if not staged:
        before = first.staged_chunks()
        with pytest.raises(DataError, match=rf"chunk {chunk} of worker '{source}': .*errno: 1146"):
            first.extract(group)
        assert [(f.chunk, f.worker) for f in first.failures("extract")] == [(chunk, source)]
        assert set(before) <= set(first.staged_chunks())
        with pytest.raises(DataError, match="chunks are not staged"):
            first.split()
    old = sky.proof()
    second.states["build_director_index", "first"] = "failed"
    second.run()
    assert sky.proof() != old
    workers = {c.chunk: c.worker for m in steps.staged_runs(second.folder, second.plan_made) for c in m.chunks}
    assert workers[chunk] == sky.placement[chunk]
    sky.check_done(second)


def test_other_size_of_windows(make: Factory) -> None:
    run = make(batch_size=100)
    run.plan()
    old = run.plan_made
    run.window(0)
    before = run.embedded()
    run.params["batch_size"] = 37
    run.plan()
    new = run.plan_made
    assert (len(old.windows), len(new.windows)) == (3, 9)
    with run.tools() as tools, pytest.raises(ReindexError, match="not the one this task was made for"):
        reindex_steps.reindex_window(tools, run.folder, run.owner, old.token, 1)
    run.windows()
    # What had landed was not embedded again; the model's own probe was.
    assert sum(run.embedded().values()) - sum(before.values()) <= ITEMS - 100 + 1
    assert_readers_follow(run, OLD)
    run.verify()
    run.switch()
    report = run.report()
    assert (report["status"], report["total"], report["count"]) == ("done", ITEMS, ITEMS)
    with connect(run) as admin:
        assert_moved(admin)


def test_model_of_other_dimensions_is_refused_by_the_plan(make: Factory) -> None:
    first, second = make("first", batch_size=100), make("second")
    first.plan()
    first.window(0)
    second.states["reindex_collection", "first"] = "failed"
    second.server.models[NEW] = 4
    second.specs[NEW] = spec_of(NEW, second.server, dimensions=4)
    with pytest.raises(RequestError, match=r"'new_model' has vectors of 8 dimensions, but the connection .* says 4"):
        second.plan()
    # Nothing was touched: the first run can go on.
    assert claimants(second) == ["first"]
    first.server.models[NEW] = 8
    first.windows()
    first.verify()
    first.switch()
    finish(first)
    with connect(first) as admin:
        assert_moved(admin)


@pytest.mark.parametrize("change", [pytest.param("dimensions", marks=pytest.mark.slow_fault), "name"])
@pytest.mark.parametrize("step", ["window", "verify", "switch"])
def test_model_that_changes_after_the_plan_is_refused(make: Factory, change: str, step: str) -> None:
    run = make(batch_size=100)
    run.plan()
    run.window(0)
    if step != "window":
        run.windows()
    if step == "switch":
        run.verify()
    with connect(run) as admin:
        admin.execute("""UPDATE dbo_old_model SET payload = '{"text": "new"}' WHERE object_id = 'o000001'""")
    run.server.models["other"] = 8
    run.specs[NEW] = spec_of(NEW, run.server, **({"dimensions": 4} if change == "dimensions" else {"name": "other"}))
    with pytest.raises(RequestError, match="clear this run from its task 'plan' on"):
        run.window(1) if step == "window" else getattr(run, step)()
    assert run.embedded("other") == {}
    assert_readers_follow(run, OLD)
    # As it was, the run goes on where it was.
    del run.specs[NEW]
    run.windows()
    run.verify()
    run.switch()
    report = run.report()
    assert (report["status"], report["count"], report["failed"]) == ("done", ITEMS, 0)
    with connect(run) as admin:
        assert_moved(admin)
