"""Who takes over a claim uses what is staged, and sweeps the rest."""

from __future__ import annotations

import os
import time
from unittest import mock

import MySQLdb
import numpy as np
import pytest

from airflow_reindex.core.staging import Folder
from airflow_reindex.director import steps
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.model.records import read_plan
from airflow_reindex.director.model.runs import manifests
from sandbox.catalog.catalog import CatalogSummary, truth
from sandbox.servers.cluster import Sandbox
from tests.director.sky import killed_after
from tests.support.build import Build, Factory, assert_same, count_reads, run_sql
from tests.support.claims import assert_published, before_first_call, claim_row, claims, finish

DAG = "build_director_index"

pytestmark = pytest.mark.usefixtures("clean")


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
        plan = second.plan()
        assert plan.adopted_chunks == len(done) - 1
        assert [dropped for dropped in plan.adopted.values() if dropped] == [(chunk,)]
        self.assert_swept(first)
        reads = count_reads(monkeypatch)
        finish(second)
        assert sorted(reads) == sorted(self.all_chunks(sky) - (done - {chunk}))
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
            patch.setattr(claim, "sweep", mock.Mock(side_effect=MySQLdb.OperationalError(2013, "Lost connection")))
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
        before_first_call(monkeypatch, run_buffer, "Manifest", first.plan)
        steps.extract_group(
            first.servers, first.folder, read_plan(first.folder, first.plan_made.token), 0, first.memory
        )
        (orphan,) = manifests(first.folder)
        assert [file.name for file in orphan.files if file.name.split("/")[1] in first.folder.names("runs")] == []
        run = first if next_run == "first" else build(sky.spec.database, run_id="second", force_takeover=1)
        assert run.plan().adopted_chunks == 0
        finish(run)
        assert_published(run, sky)

    @pytest.mark.parametrize("moves", [0, 1, 2, 5])
    def test_plan_that_dies_in_mid_adoption_can_be_made_again(
        self, sky: CatalogSummary, build: Factory, moves: int
    ) -> None:
        first, second = self.after_a_failure(sky, build, rows_in_memory=300)
        done = set(first.staged_chunks())
        at_once = max(len(manifest.chunks) for manifest in manifests(first.folder))
        assert at_once < len(done)
        with killed_after(moves):
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
        assert Folder.at(run.folder.url).names() == []
