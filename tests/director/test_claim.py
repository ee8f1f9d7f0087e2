"""The claim: one run at a time builds an index, and of many that want to, one wins."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_reindex.core.failures import ConflictError
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.mysql import client
from airflow_reindex.director.planning import checks
from sandbox.catalog.catalog import CatalogSummary
from tests.support.build import Build, Factory, run_sql
from tests.support.claims import assert_published, before_first_call, claim_row, claims, finish
from tests.support.wait import wait_until

DAG = "build_director_index"
PLANNERS, RACES = 8, 10

pytestmark = pytest.mark.usefixtures("clean")


class TestWhoMayClaim:
    def test_second_run_is_refused_while_the_first_is_active(self, sky: CatalogSummary, build: Factory) -> None:
        first = build(sky.spec.database, run_id="manual__2026-01-01")
        first.plan()
        before = first.working_tables()
        second = build(sky.spec.database, run_id="second")
        with pytest.raises(ConflictError) as caught:
            second.plan()
        assert "is being built by run 'manual__2026-01-01' of DAG 'build_director_index'" in str(caught.value)
        assert "force_takeover" in str(caught.value)
        assert first.working_tables() == before
        finish(first)
        assert_published(first, sky)

    @pytest.mark.parametrize(
        ("state", "deployment", "taken"),
        [
            *(("failed", "tests", True), ("success", "tests", True), ("running", "tests", False)),
            *(("queued", "tests", False), ("failed", "elsewhere", False)),
        ],
        ids=["failed", "done", "running", "queued", "a namesake in another deployment"],
    )
    def test_ended_run_is_taken_over_and_an_active_one_respected(
        self, sky: CatalogSummary, build: Factory, state: str, deployment: str, taken: bool
    ) -> None:
        first, second = (build(sky.spec.database, run_id=name) for name in ("first", "second"))
        first.plan()
        set_claim(first, f"deployment = '{deployment}'")
        second.states[DAG, "first"] = state
        if taken:
            second.plan()
            assert claim_row(second) == "second"
            finish(second)
            assert_published(second, sky)
        else:
            with pytest.raises(ConflictError):
                second.plan()
            assert claim_row(second) == "first"

    @pytest.mark.parametrize(("silence", "taken"), [(290, False), (310, True)])
    def test_takeover_after_silence(self, sky: CatalogSummary, build: Factory, silence: int, taken: bool) -> None:
        first = build(sky.spec.database, run_id="first")
        first.plan()
        set_claim(first, f"alive_at = NOW(6) - INTERVAL {silence} SECOND")
        second = build(sky.spec.database, run_id="second")
        if taken:
            second.plan()
        else:
            with pytest.raises(ConflictError, match=r"Last heartbeat 29\d s ago"):
                second.plan()
        assert claim_row(second) == ("second" if taken else "first")

    def test_keeper_gives_signs_of_life(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = build(sky.spec.database)
        token, tables = run.plan().token, run.servers.tables(run.request)
        set_claim(run, "alive_at = NOW(6) - INTERVAL 1 DAY")
        monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
        with claim.keeping(run.servers.czar, tables, token):
            wait_until(lambda: held(run).silent < 60)
            set_claim(run, "alive_at = NOW(6) - INTERVAL 1 DAY")
            wait_until(lambda: held(run).silent < 60)

    def test_force_takeover(self, sky: CatalogSummary, build: Factory) -> None:
        build(sky.spec.database, run_id="first").plan()
        second = build(sky.spec.database, run_id="second", force_takeover=1)
        second.plan()
        assert claim_row(second) == "second"

    def test_run_claims_again_when_its_plan_is_cleared(self, sky: CatalogSummary, build: Factory) -> None:
        run = build(sky.spec.database)
        old = run.plan()
        run.extract(0)
        new = run.plan()
        assert old.token != new.token
        assert len(claims(run)) == 1
        finish(run)
        assert_published(run, sky)

    def test_owner_that_died_before_saying_its_name(self, sky: CatalogSummary, build: Factory) -> None:
        first = build(sky.spec.database, run_id="first")
        first.to_load()
        (name,) = claims(first)
        run_sql(first.sandbox.czar, f"DELETE FROM airflow_reindex.`{name}`")
        # Nobody can be about to say it, as the lock that planners stand in line at is free.
        second = build(sky.spec.database, run_id="second")
        second.plan()
        assert claim_row(second) == "second"
        finish(second)
        assert_published(second, sky)


class TestRaces:
    def test_one_of_many_planners_wins(self, sky: CatalogSummary, build: Factory) -> None:
        for number in range(RACES):
            race(self.planners(sky, build, f"fresh-{number}"))

    def test_one_of_many_takes_over(self, sky: CatalogSummary, build: Factory) -> None:
        for number in range(RACES):
            dead = build(sky.spec.database, run_id=f"dead-{number}", force_takeover=1)
            dead.plan()
            runs = self.planners(sky, build, f"heir-{number}")
            for run in runs:
                run.states[DAG, dead.run_id] = "failed"
            race(runs)

    @staticmethod
    def planners(sky: CatalogSummary, build: Factory, prefix: str) -> list[Build]:
        """Runs that want to build one index."""
        return [build(sky.spec.database, run_id=f"{prefix}-{number}") for number in range(PLANNERS)]

    def test_claim_that_moves_while_it_is_looked_at(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dead, heir, late = (build(sky.spec.database, run_id=name) for name in ("dead", "heir", "late"))
        dead.plan()
        heir.states[DAG, "dead"] = late.states[DAG, "dead"] = "failed"
        moved = list[str]()

        def query(connection: Any, text: str, args: Any = ()) -> Any:
            if text.startswith("SELECT deployment") and not moved:
                moved.append(text)
                heir.plan()
            return client.query(connection, text, args)

        monkeypatch.setattr(claim, "query", query)
        with pytest.raises(ConflictError, match="is being built by run 'heir'"):
            late.plan()
        assert claim_row(heir) == "heir"

    def test_probe_of_another_plan_is_left_alone(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heir, late = (build(sky.spec.database, run_id=name) for name in ("heir", "late"))
        before_first_call(monkeypatch, checks, "load_file", heir.plan)
        with pytest.raises(ConflictError, match="is being built by run 'heir'"):
            late.plan()
        assert heir.working_tables() == claims(heir)

    def test_dry_run_does_not_take_the_database_from_a_plan(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, run = build(sky.spec.database, run_id="real"), sky.spec.database
        run_sql(real.sandbox.czar, "DROP DATABASE IF EXISTS airflow_reindex")
        before_first_call(monkeypatch, checks, "load_file", real.plan)
        build(run, run_id="dry", dry_run=1).plan()
        assert claim_row(real) == "real"
        finish(real)
        assert_published(real, sky)


def race(runs: list[Build]) -> None:
    """Let all runs plan at the same instant: one wins, the others are refused; then remove the winner's claim."""
    barrier = threading.Barrier(len(runs))

    def plan(run: Build) -> BaseException | None:
        barrier.wait()
        try:
            run.plan()
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(len(runs)) as pool:
        errors = list(pool.map(plan, runs))
    winners = [run for run, error in zip(runs, errors, strict=True) if error is None]
    strange = [error for error in errors if error is not None and not isinstance(error, ConflictError)]
    assert strange == []
    (winner,) = winners
    assert claim_row(winner) == winner.run_id
    assert claims(winner) == [f"claim_{winner.servers.tables(winner.request).mark}_{winner.plan_made.token}"]
    run_sql(winner.sandbox.czar, "DROP DATABASE airflow_reindex")


def set_claim(run: Build, assignment: str) -> None:
    """Change the only claim by hand."""
    (name,) = claims(run)
    run_sql(run.sandbox.czar, f"UPDATE airflow_reindex.`{name}` SET {assignment}")


def held(run: Build) -> claim.Held:
    """The claim as other runs see it."""
    connection = run.servers.czar()
    try:
        found = claim.find(connection, run.servers.tables(run.request))
    finally:
        connection.close()
    assert found is not None
    return found
