"""kill -9 of the czar's server at random moments of the load: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from random import Random

import pytest

from airflow_reindex.director.model.records import read_split
from airflow_reindex.director.mysql.client import is_transient
from sandbox.catalog.catalog import CatalogSpec
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import Changing, note
from tests.support.build import Build, run_sql

KILLS = 20
SPEC = CatalogSpec(database="sky_load", rows=250_000, chunks=40)
#: Small transactions, so that a load has some hundreds of moments to be hit at.
SLICE_ROWS = 1_500
#: Loads at the same time, and the longest wait before a strike in seconds.
LOADS, LONGEST = 2, 0.45


def working_table(run: Build, kind: str) -> str:
    """The one working table of a kind."""
    (name,) = [name for name in run.working_tables() if name.startswith(f"{kind}_")]
    return f"airflow_reindex.`{name}`"


def committed_slices(run: Build) -> int:
    """How many slices are committed; their rows must be all that the shadow table has."""
    slices, shadow = working_table(run, "slices"), working_table(run, "shadow")
    ((count, rows),) = run_sql(run.sandbox.czar, f"SELECT COUNT(*), COALESCE(SUM(`rows`), 0) FROM {slices}")
    assert run_sql(run.sandbox.czar, f"SELECT COUNT(*) FROM {shadow}") == [(rows,)]
    return int(count)


def strike(run: Build, seconds: float) -> bool:
    """Load all ranges and kill the server meanwhile; whether it struck before the loads were done."""
    numbers = [key_range.number for key_range in read_split(run.folder).ranges]
    with ThreadPoolExecutor(LOADS) as pool:
        loads = [pool.submit(run.load, number) for number in numbers]
        if not wait(loads, timeout=seconds).not_done:
            return False
        run.sandbox.czar.kill()
    errors = [error for load in loads if (error := load.exception())]
    assert all(is_transient(error) for error in errors), errors
    return bool(errors)


def test_load_survives_kills_of_the_czar(
    shaky: Sandbox, shaky_build: Callable[..., Build], chance: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Build, "slice_rows", SLICE_ROWS)
    sky = Changing(shaky, SPEC)
    shaky_build(SPEC.database).run()
    kills, rounds, began = 0, 0, time.monotonic()
    while kills < KILLS:
        old, rounds = sky.proof(), rounds + 1
        assert old[0] == old[1] == len(sky.rows[0])
        sky.change(chance.sample(sorted(sky.placement), 20), rounds)
        run = shaky_build(SPEC.database, run_id=f"round-{rounds}", rebuild=1)
        run.to_load()
        committed = 0
        while kills < KILLS and strike(run, chance.uniform(0, LONGEST)):
            kills += 1
            shaky.czar.start()
            assert sky.proof() == old
            # What was committed stays committed; the next try goes on from there.
            committed, before = committed_slices(run), committed
            assert committed >= before
        if not shaky.czar.is_running():
            shaky.czar.start()
        run.load_all()
        sky.check_table(working_table(run, "shadow"))
        assert run.publish().rows == len(sky.rows[0])
        sky.check_done(run)
        assert sky.proof() != old
    note(f"{kills} kills in {rounds} builds, {time.monotonic() - began:.1f} s")
