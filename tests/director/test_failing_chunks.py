"""Chunks that cannot be read are reported, all of them, and nothing half-built is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from airflow_reindex.core.failures import Code, DataError, ReindexError, TransientError
from airflow_reindex.core.report import Failure
from sandbox.catalog.catalog import truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.director.failing import SPEC, assert_old_index, change, fails, make_old_index, worker_of
from tests.support.build import Build, Factory, assert_same, run_sql, tables_of

pytestmark = pytest.mark.usefixtures("clean")


class TestFaultsOfTables:
    @pytest.mark.parametrize("rebuild", [0, 1])
    def test_missing_table(self, catalog: CatalogFactory, build: Factory, rebuild: int) -> None:
        made = catalog(replace(SPEC, missing=1))
        (chunk,) = made.faults.missing
        run = build(made.spec.database, rebuild=rebuild)
        (failure,) = extract_failures(run)
        assert (failure.table, failure.worker, failure.chunk) == ("Object", worker_of(made, chunk), chunk)
        assert failure.message == (f"error: Table '{made.spec.database}.Object_{chunk}' doesn't exist, errno: 1146")
        assert failure.kind is Code.MISSING_TABLE
        # Everything else is staged.
        assert run.staged_chunks() == sorted({*made.placement, 1234567890} - {chunk})

    def test_table_missing_on_one_replica(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, missing=3, replicas=2))
        run = build(made.spec.database)
        assert run.run().rows == made.rows
        assert run.failures("extract") == []
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_table_that_disappears_after_the_plan(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox
    ) -> None:
        made = catalog(replace(SPEC, replicas=2), fresh=True)
        run = build(made.spec.database)
        lost = [chunk for group in run.plan().groups for chunk in group][3]
        run_sql(sandbox.workers[lost.workers[0]], f"DROP TABLE `{made.spec.database}`.`Object_{lost.chunk}`")
        run.extract_all()
        assert run.failures("extract") == []
        run.complete()
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_null_keys(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, null_keys=7))
        found = extract_failures(build(made.spec.database, rebuild=1))
        assert {f.chunk: f.message.split(" of ")[0] for f in found} == {
            chunk: f"column 'objectId' is NULL in {count} row(s)" for chunk, count in made.faults.null_keys.items()
        }
        assert {f.kind for f in found} == {Code.BAD_DATA}

    def test_table_without_sub_chunks(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, no_sub_chunk=2))
        found = extract_failures(build(made.spec.database, rebuild=1))
        assert tuple(failure.chunk for failure in found) == made.faults.no_sub_chunk
        assert all("Unknown column 'subChunkId'" in f.message and "errno: 1054" in f.message for f in found)
        assert {f.kind for f in found} == {Code.BAD_DATA}

    @pytest.mark.parametrize(
        ("column", "changed", "wide", "value"),
        [("objectId", "BIGINT UNSIGNED", "BIGINT", 2**63 + 5), ("subChunkId", "INT", "INT UNSIGNED", -1)],
    )
    def test_value_out_of_range(
        self,
        catalog: CatalogFactory,
        build: Factory,
        sandbox: Sandbox,
        column: str,
        changed: str,
        wide: str,
        value: int,
    ) -> None:
        made = catalog(SPEC, fresh=True)
        chunk = max(made.placement)
        alter = f"ALTER TABLE {{table}} MODIFY {column} {changed} NOT NULL"
        change(sandbox, made, chunk, alter, f"UPDATE {{table}} SET {column} = {value} LIMIT 1")
        (failure,) = extract_failures(build(made.spec.database, rebuild=1))
        assert failure.chunk == chunk
        assert failure.message == f"column '{column}' has 1 value(s) out of range for {wide}: {value}"
        assert failure.kind is Code.BAD_DATA

    @pytest.mark.parametrize("kind", ["DOUBLE", "DECIMAL(20)", "VARCHAR(20)"])
    def test_key_column_of_another_type(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox, kind: str
    ) -> None:
        made = catalog(SPEC, fresh=True)
        chunk = min(made.placement)
        change(sandbox, made, chunk, f"ALTER TABLE {{table}} MODIFY objectId {kind} NOT NULL")
        (failure,) = extract_failures(build(made.spec.database, rebuild=1))
        assert failure.chunk == chunk
        assert failure.message == f"column 'objectId' of table 'Object_{chunk}' is not an integer column"

    def test_all_faults_at_once_are_all_reported(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox
    ) -> None:
        made = catalog(replace(SPEC, chunks=20, missing=2, no_sub_chunk=2, null_keys=3), fresh=True)
        bad = {*made.faults.missing, *made.faults.no_sub_chunk, *made.faults.null_keys}
        double, out_of_range, *_ = sorted(set(made.placement) - bad)
        change(sandbox, made, double, "ALTER TABLE {table} MODIFY objectId DOUBLE NOT NULL")
        change(
            sandbox,
            made,
            out_of_range,
            "ALTER TABLE {table} MODIFY objectId BIGINT UNSIGNED NOT NULL",
            f"UPDATE {{table}} SET objectId = {2**64 - 1} LIMIT 1",
        )
        run = build(made.spec.database, rebuild=1)
        found = extract_failures(run)
        assert {failure.chunk for failure in found} == bad | {double, out_of_range}
        assert all(failure.worker == worker_of(made, failure.chunk) for failure in found)
        # Mended, a retry reads what was bad and nothing else.
        assert run.staged_chunks() == sorted({*made.placement, 1234567890} - bad - {double, out_of_range})


class TestWorkers:
    def test_worker_that_is_down(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        made = catalog(SPEC)
        run = build(made.spec.database, rebuild=1)
        connects: list[str] = []
        run.servers = replace(
            run.servers, workers={name: self.counted(run, name, connects) for name in sandbox.workers}
        )
        down = "worker-2"
        mine = sorted(chunk for chunk, workers in made.placement.items() if workers == (down,))
        sandbox.workers[down].kill()
        try:
            make_old_index(run)
            plan = run.plan()
            for number, group in enumerate(plan.groups):
                connects.clear()
                if group[0].workers[0] == down:
                    with pytest.raises(TransientError, match="chunks failed, the others are staged"):
                        run.extract(number)
                else:
                    run.extract(number)
                # The connection is tried once, not once a chunk.
                assert connects == [group[0].workers[0]]
            found = run.failures("extract")
            assert [(failure.worker, failure.chunk) for failure in found] == [(down, chunk) for chunk in mine]
            assert all(f.message.startswith("Failed to connect to the worker service: error: ") for f in found)
            assert all("errno: 2002" in f.message or "errno: 2003" in f.message for f in found)
            assert {f.kind for f in found} == {Code.CONNECTION}
        finally:
            sandbox.workers[down].start()
        staged = run.staged_chunks()
        assert sorted([*staged, *mine]) == sorted({*made.placement, 1234567890})
        run.extract_all()
        assert run.staged_chunks() == sorted({*made.placement, 1234567890})
        run.complete()
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_other_replicas_serve_for_a_worker_that_is_down(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox
    ) -> None:
        made = catalog(replace(SPEC, replicas=2))
        run = build(made.spec.database, rebuild=1)
        run.plan()
        sandbox.workers["worker-1"].kill()
        try:
            run.extract_all()
            assert run.failures("extract") == []
        finally:
            sandbox.workers["worker-1"].start()
        run.complete()
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_connection_that_is_taken_away_after_the_plan(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(SPEC)
        run = build(made.spec.database, rebuild=1)
        run.plan()
        run.servers = replace(run.servers, workers={"worker-1": run.servers.workers["worker-1"]})
        messages = fails(run.extract, range(len(run.plan_made.groups)), DataError)
        assert messages
        assert all("no MySQL connection for worker 'worker-2'" in text for text in messages)
        assert {f.kind for f in run.failures("extract")} == {Code.CONNECTION}

    @staticmethod
    def counted(run: Build, name: str, connects: list[str]) -> Callable[[], Any]:
        """A way to connect that counts."""

        def connect() -> Any:
            connects.append(name)
            return run.sandbox.workers[name].connect("reindex")

        return connect


def extract_failures(run: Build, kind: type[ReindexError] = DataError) -> list[Failure]:
    """What the extracts of a build report; it must not come to an index."""
    if run.request.rebuild:
        make_old_index(run)
    messages = fails(run.extract, range(len(run.plan().groups)), kind)
    failures = run.failures("extract")
    assert messages
    assert all(any(f.worker in text and str(f.chunk) in text for f in failures) for text in messages)
    with pytest.raises(DataError, match=r"\d+ chunks are not staged"):
        run.split()
    with pytest.raises(ReindexError):
        run.publish()
    if run.request.rebuild:
        assert_old_index(run)
    else:
        assert run.request.index_table not in tables_of(run.sandbox, "qservMeta")
    return failures
