"""A run that goes on after another has taken over changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import MySQLdb
import pytest

from airflow_reindex.core.failures import ClaimLostError, ReindexError
from airflow_reindex.director import steps
from airflow_reindex.director.coordination import claim, index_build
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.load import loader
from airflow_reindex.director.model.records import read_plan, read_split
from airflow_reindex.director.model.runs import manifests
from airflow_reindex.director.model.split import RunFiles
from airflow_reindex.director.mysql import client
from airflow_reindex.director.publish import proof
from sandbox.catalog.catalog import CatalogSummary
from tests.support.build import Build, Factory, run_sql, tables_of, waits_for_lock
from tests.support.claims import assert_published, before_first_call, claim_row, claims, finish, finish_whole
from tests.support.wait import wait_until

MEMORY = 512 << 20

pytestmark = pytest.mark.usefixtures("clean")


class TestZombies:
    """Run 1 goes on after run 2 has taken over."""

    @pytest.fixture
    def runs(self, sky: CatalogSummary, build: Factory, monkeypatch: pytest.MonkeyPatch) -> tuple[Build, Build]:
        """Two runs over an existing index, of which the second takes over; slices are small."""
        monkeypatch.setattr(Build, "slice_rows", 500)
        finish_whole(build(sky.spec.database, run_id="before"))
        return (
            build(sky.spec.database, run_id="first", rebuild=1),
            build(sky.spec.database, run_id="second", rebuild=1, force_takeover=1),
        )

    def test_tasks_that_start_later(self, sky: CatalogSummary, runs: tuple[Build, Build]) -> None:
        first, second = runs
        first.to_load()
        first.load(0)
        plan, ranges = first.plan_made, read_split(first.folder)
        finish_whole(second)
        before = live_state(first)
        for step in (
            lambda: steps.extract_group(first.servers, first.folder, read_plan(first.folder, plan.token), 0, MEMORY),
            first.split,
            lambda: steps.load_range(
                first.servers, first.folder, read_plan(first.folder, plan.token), ranges.build, 1, MEMORY
            ),
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
        plan, ranges, staged = first.plan_made, read_split(first.folder), list(manifests(first.folder))
        finish_whole(second)
        before = live_state(first)
        # As if they had read everything just before.
        monkeypatch.setattr("tests.support.build.read_plan", lambda *_: plan)
        monkeypatch.setattr(steps, "read_group", lambda *_: plan.groups[0])
        monkeypatch.setattr(steps, "read_groups", lambda *_: plan.groups)
        monkeypatch.setattr(steps, "read_split", lambda _: ranges)
        monkeypatch.setattr(steps, "read_source", lambda _: RunFiles.of(staged))
        monkeypatch.setattr(steps, "manifests", lambda *_: staged)
        for step in (
            lambda: steps.extract_group(first.servers, first.folder, plan, 0, MEMORY),
            first.split,
            lambda: steps.load_range(first.servers, first.folder, plan, ranges.build, 1, MEMORY),
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
        before_first_call(monkeypatch, IndexBuild, "create", second.plan)
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
        monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
        real = extractor.stream

        def stream(connection: Any, plan: Any, chunk: int) -> Iterator[Any]:
            monkeypatch.setattr(extractor, "stream", real)
            second.plan()
            (rows,) = real(connection, plan, chunk)
            deadline = time.monotonic() + 180
            while time.monotonic() < deadline:
                # A large chunk, as it were.
                yield rows.take(slice(0, 1))
                time.sleep(0.002)

        monkeypatch.setattr(extractor, "stream", stream)
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
        before_first_call(monkeypatch, loader, "write_text", lambda: finish_whole(second))
        with pytest.raises(ClaimLostError):
            first.load(0)
        assert_published(second, sky)

    def test_load_within_a_slice(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs
        first.to_load()
        plan, ranges = first.plan_made, read_split(first.folder)
        with ThreadPoolExecutor(1) as pool:
            futures: list[Any] = []

            def take_over() -> None:
                futures.append(pool.submit(second.plan))
                wait_until(lambda: waits_for_lock(first.sandbox, "RENAME TABLE `airflow_reindex`.`claim"))

            # The slice's transaction holds the claim: the takeover waits for its end.
            before_first_call(monkeypatch, loader, "load_file", take_over)
            with pytest.raises(ReindexError):
                first.load(0)
            assert futures[0].result().token == second.plan_made.token
        with pytest.raises(ReindexError):
            steps.load_range(first.servers, first.folder, read_plan(first.folder, plan.token), ranges.build, 1, MEMORY)
        finish(second)
        assert_published(second, sky)

    def test_frozen_within_a_slice(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "TRANSACTION_IDLE_SECONDS", 1, raising=False)
        first, second = runs
        first.to_load()

        def freeze() -> None:
            # Its machine has vanished from the network, or was suspended: the server hears nothing more.
            with client.session(first.servers.czar) as connection, client.transaction(connection):
                IndexBuild(connection, first.servers.tables(first.request), first.plan_made.token).fence()
                finish_whole(second)

        with pytest.raises(MySQLdb.OperationalError) as caught:
            freeze()
        # The server has hung up on it.
        assert client.code_of(caught.value) in (2006, 2013)
        assert_published(second, sky)

    @pytest.mark.parametrize("moment", ["verify", "finish_table", "swap"])
    def test_publish_after_the_takeover(
        self, sky: CatalogSummary, runs: tuple[Build, Build], monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        first, second = runs
        first.to_load()
        first.load_all()
        old = live_state(first)
        before_first_call(monkeypatch, proof if moment == "verify" else IndexBuild, moment, second.plan)
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
            return client.execute(connection, text, args)

        monkeypatch.setattr(index_build, "execute", execute)
        with pytest.raises(ClaimLostError):
            first.publish()
        # The statement was sent as it stood, and moved nothing.
        assert [live_state(first)] == states
        assert len(seen) == 1
        if not whole:
            finish(second)
        assert_published(second, sky)


def live_state(run: Build) -> tuple[Any, ...]:
    """What no zombie may change: the live index as a table of its own, its sums, and all working tables."""
    live = f"qservMeta.`{run.request.index_table}`"
    ((found,),) = run_sql(
        run.sandbox.czar,
        f"SELECT TABLE_ID FROM information_schema.INNODB_SYS_TABLES WHERE NAME = 'qservMeta/{run.request.index_table}'",
    )
    sums = run_sql(run.sandbox.czar, f"SELECT COUNT(*), SUM(CRC32(CONCAT(objectId, '-', subChunkId))) FROM {live}")
    return found, sums, run.working_tables(), tables_of(run.sandbox, "qservMeta")
