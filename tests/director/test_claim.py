"""The claim: one run at a time builds an index; who lost it changes nothing; who takes over uses what is there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import MySQLdb
import numpy as np
import pytest

from airflow_reindex.core.failures import ClaimLostError, ConflictError, ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director import checks, claim, extract, load, publish, split, sql, steps
from airflow_reindex.director.records import read_split
from airflow_reindex.director.runs import manifests
from airflow_reindex.sandbox.catalog import CatalogSpec, CatalogSummary, truth
from airflow_reindex.sandbox.cluster import Sandbox
from airflow_reindex.sandbox.fixtures import CatalogFactory
from tests.harness import Build, assert_same, clean_czar, run_sql, tables_of

SPEC = CatalogSpec(rows=6_000, chunks=12, empty_chunks=0)
DAG = "build_director_index"
PLANNERS, RACES = 8, 10

Factory = Callable[..., Build]


@pytest.fixture(autouse=True)
def clean(sandbox: Sandbox) -> Iterator[None]:
    """No test sees another's claims and indexes."""
    with clean_czar(sandbox):
        yield


@pytest.fixture
def sky(sandbox: Sandbox, catalog: CatalogFactory) -> CatalogSummary:
    """A catalog of the test's own, whose tables were last written an hour ago."""
    made = catalog(SPEC, fresh=True)
    for server in sandbox.workers.values():
        hour_ago = time.time() - 3600
        run_sql(server, f"FLUSH TABLES `{made.spec.database}`.`Object_{min(made.placement)}`")
        for path in (server.data_dir / made.spec.database).glob("*.MYD"):
            os.utime(path, (hour_ago, hour_ago))
    return made


def claims(run: Build) -> list[str]:
    """The claim tables on the server."""
    return [name for name in run.working_tables() if name.startswith("claim_")]


def claim_row(run: Build) -> str:
    """The run that the only claim names."""
    (name,) = claims(run)
    ((run_id,),) = run_sql(run.sandbox.czar, f"SELECT run_id FROM airflow_reindex.`{name}`")
    return str(run_id)


def set_claim(run: Build, assignment: str) -> None:
    """Change the only claim by hand."""
    (name,) = claims(run)
    run_sql(run.sandbox.czar, f"UPDATE airflow_reindex.`{name}` SET {assignment}")


def finish(run: Build) -> None:
    """All that is left of a planned build."""
    run.extract_all()
    run.split()
    run.load_all()
    run.publish()
    run.finish()


def assert_published(run: Build, made: CatalogSummary) -> None:
    """The index equals the catalog, nothing else is in either database."""
    assert_same(run.index(), truth(made.spec).index_rows())
    assert run.request.index_table in tables_of(run.sandbox, "qservMeta")
    assert run.working_tables() == []


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of each chunk that is read from now on."""
    reads: list[int] = []
    real = extract.stream

    def stream(connection: Any, plan: Any, chunk: int) -> Any:
        reads.append(chunk)
        return real(connection, plan, chunk)

    monkeypatch.setattr(extract, "stream", stream)
    return reads


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

    @pytest.mark.parametrize("state", ["failed", "success"])
    def test_ended_run_is_taken_over(self, sky: CatalogSummary, build: Factory, state: str) -> None:
        build(sky.spec.database, run_id="first").plan()
        second = build(sky.spec.database, run_id="second")
        second.states[DAG, "first"] = state
        second.plan()
        assert claim_row(second) == "second"
        finish(second)
        assert_published(second, sky)

    @pytest.mark.parametrize("state", ["running", "queued"])
    def test_active_run_is_respected(self, sky: CatalogSummary, build: Factory, state: str) -> None:
        build(sky.spec.database, run_id="first").plan()
        second = build(sky.spec.database, run_id="second")
        second.states[DAG, "first"] = state
        with pytest.raises(ConflictError):
            second.plan()
        assert claim_row(second) == "first"

    def test_state_of_a_namesake_in_another_deployment_says_nothing(self, sky: CatalogSummary, build: Factory) -> None:
        first = build(sky.spec.database, run_id="first")
        first.plan()
        set_claim(first, "deployment = 'elsewhere'")
        second = build(sky.spec.database, run_id="second")
        second.states[DAG, "first"] = "failed"
        with pytest.raises(ConflictError):
            second.plan()

    @pytest.mark.parametrize(("silence", "taken"), [(290, False), (310, True)])
    def test_takeover_after_silence(self, sky: CatalogSummary, build: Factory, silence: int, taken: bool) -> None:
        first = build(sky.spec.database, run_id="first")
        first.plan()
        set_claim(first, f"alive_at = NOW(6) - INTERVAL {silence} SECOND")
        second = build(sky.spec.database, run_id="second")
        if taken:
            second.plan()
        else:
            with pytest.raises(ConflictError, match=r"last sign of life 29\d s ago"):
                second.plan()
        assert claim_row(second) == ("second" if taken else "first")

    def test_keeper_gives_signs_of_life(self, sky: CatalogSummary, build: Factory) -> None:
        run = build(sky.spec.database)
        token, tables = run.plan().token, run.servers.tables(run.request)
        set_claim(run, "alive_at = NOW(6) - INTERVAL 1 DAY")
        with claim.Keeper(run.servers.czar, tables, token, every=0.01):
            wait_for(lambda: held(run).silent < 60)
            set_claim(run, "alive_at = NOW(6) - INTERVAL 1 DAY")
            wait_for(lambda: held(run).silent < 60)

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
        second = build(sky.spec.database, run_id="second")
        with pytest.raises(ConflictError, match="is being built by a run that is just starting"):
            second.plan()
        second.claim_timeout = 0.5
        wait_for(lambda: planned(second))
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
            return sql.query(connection, text, args)

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


class TestZombies:
    """Run 1 goes on after run 2 has taken over."""

    @pytest.fixture
    def runs(self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch) -> tuple[Build, Build]:
        """Two runs over an existing index, of which the second takes over; slices are small."""
        monkeypatch.setattr(split.make_split, "__defaults__", (500,))
        finish_whole(build(sky.spec.database, run_id="before"))
        return (
            build(sky.spec.database, run_id="first", rebuild=1),
            build(sky.spec.database, run_id="second", rebuild=1, force_takeover=1),
        )

    def test_tasks_that_start_later(self, sky: CatalogSummary, runs: tuple[Build, Build]) -> None:
        first, second = runs
        first.to_load()
        first.load(0)
        plan, ranges = first.plan_made, split_of(first)
        finish_whole(second)
        before = live_state(first)
        for step in (
            lambda: steps.extract_group(first.servers, first.folder, plan.token, 0, 1000),
            first.split,
            lambda: steps.load_range(first.servers, first.folder, plan.token, ranges.build, 1),
            first.publish,
        ):
            with pytest.raises(ReindexError, match=r"the plan in .* is gone"):
                step()
        assert live_state(first) == before
        assert_published(second, sky)

    def test_tasks_that_know_their_plan(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs
        first.to_load()
        first.load(0)
        plan, ranges, staged = first.plan_made, split_of(first), list(manifests(first.folder))
        finish_whole(second)
        before = live_state(first)
        # As if they had read everything just before.
        monkeypatch.setattr(steps, "read_plan", lambda *_: plan)
        monkeypatch.setattr(steps, "read_split", lambda _: ranges)
        monkeypatch.setattr(steps, "manifests", lambda *_: staged)
        for step in (
            lambda: steps.extract_group(first.servers, first.folder, plan.token, 0, 1000),
            first.split,
            lambda: steps.load_range(first.servers, first.folder, plan.token, ranges.build, 1),
            first.publish,
        ):
            with pytest.raises(ClaimLostError, match="another run took over"):
                step()
        assert live_state(first) == before
        assert_published(second, sky)

    def test_split_leaves_no_tables(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs
        first.plan()
        first.extract_all()
        before_first_call(monkeypatch, steps, "create_tables", second.plan)
        with pytest.raises(ClaimLostError):
            first.split()
        assert second.working_tables() == claims(second)
        finish(second)
        assert_published(second, sky)

    def test_extract_stops_in_the_midst(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs
        first.plan()
        beat_fast(monkeypatch)
        real = extract.stream

        def stream(connection: Any, plan: Any, chunk: int) -> Iterator[Any]:
            monkeypatch.setattr(extract, "stream", real)
            second.plan()
            (rows,) = real(connection, plan, chunk)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                # A large chunk, as it were.
                yield rows.take(slice(0, 1))
                time.sleep(0.002)

        monkeypatch.setattr(extract, "stream", stream)
        with pytest.raises(ClaimLostError):
            first.extract(0)
        assert first.staged_chunks() == []
        finish(second)
        assert_published(second, sky)

    def test_load_between_two_slices(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs
        first.to_load()
        before_first_call(monkeypatch, load, "write_text", lambda: finish_whole(second))
        with pytest.raises(ClaimLostError):
            first.load(0)
        assert_published(second, sky)

    def test_load_within_a_slice(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs
        first.to_load()
        plan, ranges = first.plan_made, split_of(first)
        with ThreadPoolExecutor(1) as pool:
            futures: list[Any] = []

            def take_over() -> None:
                futures.append(pool.submit(second.plan))
                wait_for(lambda: waits_for_lock(first.sandbox, "RENAME TABLE `airflow_reindex`.`claim"))

            # The slice's transaction holds the claim: the takeover waits for its end.
            before_first_call(monkeypatch, load, "load_file", take_over)
            with pytest.raises(ReindexError):
                first.load(0)
            assert futures[0].result().token == second.plan_made.token
        with pytest.raises(ReindexError):
            steps.load_range(first.servers, first.folder, plan.token, ranges.build, 1)
        finish(second)
        assert_published(second, sky)

    def test_frozen_within_a_slice(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sql, "TRANSACTION_IDLE_SECONDS", 1, raising=False)
        first, second = runs
        first.to_load()

        def freeze() -> None:
            # Its machine has vanished from the network, or was suspended: the server hears nothing more.
            with sql.session(first.servers.czar) as connection, sql.transaction(connection):
                claim.fence(connection, first.servers.tables(first.request), first.plan_made.token)
                finish_whole(second)

        with pytest.raises(MySQLdb.OperationalError) as caught:
            freeze()
        # The server has hung up on it.
        assert sql.code_of(caught.value) in (2006, 2013)
        assert_published(second, sky)

    @pytest.mark.parametrize("moment", ["verify", "finish_table", "swap"])
    def test_publish_after_the_takeover(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        first, second = runs
        first.to_load()
        first.load_all()
        old = live_state(first)
        before_first_call(monkeypatch, steps, moment, second.plan)
        with pytest.raises(ClaimLostError):
            first.publish()
        assert live_state(first)[:2] == old[:2]
        assert claim_row(second) == "second"
        assert second.working_tables() == claims(second)
        finish(second)
        assert_published(second, sky)

    @pytest.mark.parametrize("whole", [False, True], ids=["second has planned", "second has published"])
    def test_swap_itself_after_the_takeover(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch, whole: bool
    ) -> None:
        first, second = runs
        first.to_load()
        first.load_all()
        seen, states = list[str](), []

        def execute(connection: Any, text: str, args: Any = ()) -> int:
            if text.startswith("RENAME") and not seen:
                seen.append(text)
                if whole:
                    finish_whole(second)
                else:
                    second.plan()
                states.append(live_state(first))
            return sql.execute(connection, text, args)

        monkeypatch.setattr(publish, "execute", execute)
        with pytest.raises(ClaimLostError):
            first.publish()
        # The statement was sent as it stood, and moved nothing.
        assert [live_state(first)] == states
        assert len(seen) == 1
        if not whole:
            finish(second)
        assert_published(second, sky)


class TestTakeover:
    def test_staged_runs_are_adopted(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = self.after_a_failure(sky, build)
        done = set(first.staged_chunks())
        assert 0 < len(done) < len(sky.placement)
        plan = second.plan()
        assert plan.adopted_chunks == len(done)
        assert plan.chunks == len(sky.placement) + 1  # the dummy chunk is one of them
        self.assert_swept(first)
        reads = count_reads(monkeypatch)
        finish(second)
        assert sorted(reads) == sorted(self.all_chunks(sky) - done)
        assert_published(second, sky)

    def test_chunk_that_has_changed_is_read_again(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = self.after_a_failure(sky, build)
        done = set(first.staged_chunks())
        chunk = min(done & set(sky.placement))
        run_sql(
            first.sandbox.workers[sky.placement[chunk][0]],
            f"INSERT INTO `{sky.spec.database}`.`Object_{chunk}` (ra, decl, objectId, flags, chunkId, subChunkId) "
            f"VALUES (1, 1, 4242, 0, {chunk}, 7)",
        )
        manifest = next(m for m in manifests(first.folder) if chunk in {c.chunk for c in m.chunks})
        again = {c.chunk for c in manifest.chunks}
        plan = second.plan()
        assert plan.adopted_chunks == len(done - again)
        self.assert_swept(first)
        reads = count_reads(monkeypatch)
        finish(second)
        assert sorted(reads) == sorted(self.all_chunks(sky) - (done - again))
        keys, chunks, subs = second.index()
        (at,) = np.flatnonzero(keys == 4242)
        assert (chunks[at], subs[at]) == (chunk, 7)
        rest = tuple(np.delete(column, at) for column in (keys, chunks, subs))
        assert_same((rest[0], rest[1], rest[2]), truth(sky.spec).index_rows())
        assert second.working_tables() == []

    def test_change_within_the_second_of_the_last_one_is_not_missed(
        self, sky: CatalogSummary, build: Factory, sandbox: Sandbox
    ) -> None:
        chunk = min(sky.placement)
        server = sandbox.workers[sky.placement[chunk][0]]
        table = f"`{sky.spec.database}`.`Object_{chunk}`"
        path = server.data_dir / sky.spec.database / f"Object_{chunk}.MYD"
        # The table was written just now, is staged at once, and changes in place before the clock's second is over.
        now = time.time()
        run_sql(server, f"UPDATE {table} SET subChunkId = 5", f"FLUSH TABLES {table}")
        os.utime(path, (now, now))
        first = build(sky.spec.database, run_id="first")
        first.plan()
        first.extract_all()
        run_sql(server, f"UPDATE {table} SET subChunkId = 6", f"FLUSH TABLES {table}")
        os.utime(path, (now, now))
        second = build(sky.spec.database, run_id="second")
        second.states[DAG, "first"] = "failed"
        second.plan()
        finish(second)
        _, chunks, subs = second.index()
        assert set(subs[chunks == chunk]) == {6}

    def test_plan_that_fails_after_its_takeover_still_adopts(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = self.after_a_failure(sky, build)
        done = first.staged_chunks()
        with monkeypatch.context() as patch:
            patch.setattr(claim, "sweep", fail_with(MySQLdb.OperationalError(2013, "Lost connection to server")))
            with pytest.raises(MySQLdb.OperationalError):
                second.plan()
        assert claim_row(second) == "second"
        assert second.plan().adopted_chunks == len(done)
        self.assert_swept(first)
        finish(second)
        assert_published(second, sky)

    @pytest.mark.parametrize("next_run", ["first", "second"])
    def test_manifest_without_its_file_is_not_adopted(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch, next_run: str
    ) -> None:
        first = build(sky.spec.database, run_id="first")
        first.plan()
        # The plan is made again between a zombie's file, which it sweeps, and the manifest that names it.
        before_first_call(monkeypatch, extract, "Manifest", first.plan)
        steps.extract_group(first.servers, first.folder, first.plan_made.token, 0, 1000)
        (orphan,) = manifests(first.folder)
        assert [file.name for file in orphan.files if file.name.split("/")[1] in first.folder.names("runs")] == []
        run = first if next_run == "first" else build(sky.spec.database, run_id="second", force_takeover=1)
        assert run.plan().adopted_chunks == 0
        finish(run)
        assert_published(run, sky)

    @pytest.mark.parametrize("moves", [0, 1, 2, 5])
    def test_plan_that_dies_in_mid_adoption_can_be_made_again(
        self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch, moves: int
    ) -> None:
        monkeypatch.setattr(extract, "FETCH_ROWS", 300)
        first, second = self.after_a_failure(sky, build, rows_in_memory=300)
        done, left = set(first.staged_chunks()), moves
        at_once = max(len(manifest.chunks) for manifest in manifests(first.folder))
        assert at_once < len(done)
        real = Folder.move_from

        def move_from(self: Folder, other: Folder, name: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(self, other, name)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "move_from", move_from)
            with pytest.raises(KeyboardInterrupt):
                second.plan()
        # At most the manifest is lost whose files were on their way.
        adopted = second.plan().adopted_chunks
        assert len(done) - at_once * (moves > 0) <= adopted <= len(done)
        self.assert_swept(first)
        finish(second)
        assert_published(second, sky)

    def test_own_tables_of_the_dead_are_swept(self, sky: CatalogSummary, build: Factory) -> None:
        first, second = self.after_a_failure(sky, build)
        first.extract_all()
        first.split()
        first.load(0)
        assert {name.split("_")[0] for name in first.working_tables()} == {"claim", "shadow", "slices"}
        second.plan()
        assert second.working_tables() == claims(second)
        finish(second)
        assert_published(second, sky)

    @staticmethod
    def after_a_failure(sky: CatalogSummary, build: Factory, rows_in_memory: int = 100_000) -> tuple[Build, Build]:
        """A run that failed in the midst of its extracts, and the next one."""
        first = build(sky.spec.database, run_id="first")
        first.rows_in_memory = rows_in_memory
        for group in range(len(first.plan().groups) // 2):
            first.extract(group)
        second = build(sky.spec.database, run_id="second")
        second.states[DAG, "first"] = "failed"
        return first, second

    @staticmethod
    def all_chunks(sky: CatalogSummary) -> set[int]:
        """The chunks of a plan, with the dummy chunk."""
        return {*sky.placement, 1234567890}

    @staticmethod
    def assert_swept(run: Build) -> None:
        """The run's folder is empty."""
        assert Folder.at(run.folder.url).names() == []


def finish_whole(run: Build) -> None:
    """A whole build."""
    run.plan()
    finish(run)


def split_of(run: Build) -> split.Split:
    """The split in the run's folder."""
    return read_split(run.folder)


def live_state(run: Build) -> tuple[Any, ...]:
    """What no zombie may change: the live index as a table of its own, its sums, and all working tables."""
    live = f"qservMeta.`{run.request.index_table}`"
    ((found,),) = run_sql(
        run.sandbox.czar,
        f"SELECT TABLE_ID FROM information_schema.INNODB_SYS_TABLES WHERE NAME = 'qservMeta/{run.request.index_table}'",
    )
    sums = run_sql(run.sandbox.czar, f"SELECT COUNT(*), SUM(CRC32(CONCAT(objectId, '-', subChunkId))) FROM {live}")
    return found, sums, run.working_tables(), tables_of(run.sandbox, "qservMeta")


def waits_for_lock(sandbox: Sandbox, statement: str) -> bool:
    """Whether a statement that begins so waits for a metadata lock."""
    rows = run_sql(
        sandbox.czar,
        "SELECT INFO FROM information_schema.PROCESSLIST WHERE STATE = 'Waiting for table metadata lock'",
    )
    return any(str(text).startswith(statement) for (text,) in rows)


def beat_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life every 10 ms."""
    monkeypatch.setattr(claim.Keeper.__init__, "__kwdefaults__", {"every": 0.01})


def held(run: Build) -> claim.Held:
    """The claim as other runs see it."""
    connection = run.servers.czar()
    try:
        found = claim.find(connection, run.servers.tables(run.request))
    finally:
        connection.close()
    assert found is not None
    return found


def planned(run: Build) -> bool:
    """Whether a plan goes through."""
    try:
        run.plan()
    except ConflictError:
        return False
    return True


def before_first_call(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, action: Callable[[], object]) -> None:
    """Do something just before a function is called for the first time."""
    real = getattr(module, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        action()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapped)


def fail_with(error: Exception) -> Callable[..., None]:
    """A function that always fails."""

    def fail(*_: object) -> None:
        raise error

    return fail


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
