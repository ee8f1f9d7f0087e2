"""A catalog that does not list what its workers have is refused: an index of it would lack rows without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.director.model.records import read_plan
from airflow_reindex.director.report import make_report
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.director.auditing import Audit
from tests.director.failing import (
    Register,
    assert_old_index,
    change,
    configure,
    live,
    make_old_index,
    silence,
    worker_of,
)
from tests.support.build import Factory, run_sql, working_tables

pytestmark = pytest.mark.usefixtures("clean")

DUMMY = 1234567890
STATES: dict[str, dict[int, str]] = {step: {-1: "success"} for step in ("plan", "extract", "split", "load", "publish")}


@pytest.fixture
def made(catalog: CatalogFactory) -> CatalogSummary:
    """A catalog of four chunks."""
    return catalog(CatalogSpec(rows=300, chunks=4, empty_chunks=0), fresh=True)


def unlist(sandbox: Sandbox, made: CatalogSummary, condition: str = "TRUE") -> None:
    """Remove chunks of a catalog from the replication system's list."""
    configure(sandbox, f"DELETE FROM replica WHERE `database` = '{made.spec.database}' AND {condition}")


def chunk_of(made: CatalogSummary) -> int:
    """The chunk with the most rows."""
    return max(made.row_counts, key=lambda chunk: made.row_counts[chunk])


class TestNoChunkIsListed:
    def test_a_build_is_refused(self, made: CatalogSummary, build: Factory, sandbox: Sandbox, tmp_path: Path) -> None:
        unlist(sandbox, made)
        run = build(made.spec.database, rebuild=1, allow_unlisted_chunks=1)
        make_old_index(run)
        with pytest.raises(
            RequestError, match=r"lists no chunk of database .* but workers have 4 chunk tables"
        ) as caught:
            run.plan()
        assert f"chunk {min(made.placement)} on worker" in str(caught.value)
        assert_old_index(run)
        assert working_tables(sandbox, run.request.index_table) == []
        with pytest.raises(RequestError, match="workers have 4 chunk tables"):
            Audit(sandbox, tmp_path, made.spec.database, allow_unlisted_chunks=1).plan()

    def test_the_dummy_chunk_is_no_chunk(self, made: CatalogSummary, build: Factory, sandbox: Sandbox) -> None:
        unlist(sandbox, made, f"chunk <> {DUMMY}")
        with pytest.raises(RequestError, match="workers have 4 chunk tables"):
            build(made.spec.database).plan()

    def test_tables_of_the_dummy_chunk_are_no_chunks(
        self, made: CatalogSummary, build: Factory, sandbox: Sandbox
    ) -> None:
        unlist(sandbox, made)
        for chunk in made.placement:
            change(sandbox, made, chunk, "DROP TABLE {table}")
        run = build(made.spec.database)
        assert run.run().rows == 0
        assert run.plan_made.unlisted == ()

    def test_a_silent_worker_may_have_some(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"DELETE FROM replica WHERE `database` = '{name}'")
        run = build(name)
        silence(run, "worker-2")
        with pytest.raises(TransientError, match=r"lists no chunk .* worker 'worker-2', which may have some"):
            run.plan()

    def test_so_may_one_that_cannot_be_asked(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"DELETE FROM replica WHERE `database` = '{name}'")
        configure(sandbox, "INSERT INTO config_worker VALUES ('worker-9', 1, 0)")
        try:
            with pytest.raises(RequestError, match=r"worker 'worker-9', which may have some .* cannot be asked"):
                build(name).plan()
        finally:
            configure(sandbox, "DELETE FROM config_worker WHERE name = 'worker-9'")


class TestSomeChunksAreNotListed:
    def test_a_build_and_an_audit_are_refused(
        self, made: CatalogSummary, build: Factory, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        chunk = chunk_of(made)
        run = build(made.spec.database, rebuild=1)
        run.run()
        unlist(sandbox, made, f"chunk = {chunk}")
        again = build(made.spec.database, run_id="again", rebuild=1)
        where = f"chunk {chunk} on worker '{worker_of(made, chunk)}' .about {made.row_counts[chunk]} rows"
        for refused in (again.plan, Audit(sandbox, tmp_path, made.spec.database).plan):
            with pytest.raises(RequestError, match=where) as caught:
                refused()
            assert "allow_unlisted_chunks=1" in str(caught.value)
        assert run_sql(sandbox.czar, f"SELECT COUNT(*) FROM {live(run)}") == [(made.rows,)]

    def test_a_param_leaves_them_out_and_the_report_lists_them(
        self, made: CatalogSummary, build: Factory, sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        chunk = chunk_of(made)
        unlist(sandbox, made, f"chunk = {chunk}")
        run = build(made.spec.database, allow_unlisted_chunks=1)
        rows = made.row_counts[chunk]
        assert run.run().rows == made.rows - rows
        listed = [{"chunk": chunk, "worker": worker_of(made, chunk), "rows": rows}]
        report, _ = make_report(run.folder, "run", STATES, "a", "b")
        assert (report.notes["unlisted_in_all"], report.notes["unlisted_chunks"]) == (1, listed)
        assert f"left out, as the catalog lists no replica of them: chunk {chunk}" in caplog.text
        audit = Audit(sandbox, tmp_path, made.spec.database, allow_unlisted_chunks=1)
        audit.plan()
        assert read_plan(audit.folder).unlisted == ((chunk, worker_of(made, chunk), rows),)
        assert audit.report().notes["unlisted_chunks"] == listed

    def test_a_dry_run_lists_them(self, made: CatalogSummary, build: Factory, sandbox: Sandbox) -> None:
        chunk = chunk_of(made)
        unlist(sandbox, made, f"chunk = {chunk}")
        run = build(made.spec.database, allow_unlisted_chunks=1, dry_run=1)
        run.plan()
        result = run.folder.read_json("tasks/plan--1.json")["result"]
        assert [one["chunk"] for one in result["unlisted_chunks"]] == [chunk]

    @pytest.mark.parametrize(("rows", "figure"), [(0, 1_000), (5, 0)])
    def test_estimates_are_not_believed(
        self, made: CatalogSummary, build: Factory, sandbox: Sandbox, rows: int, figure: int
    ) -> None:
        chunk = chunk_of(made)
        server = sandbox.workers[worker_of(made, chunk)]
        name = f"`{made.spec.database}`.`Object_{chunk}`"
        where = f"database_name = '{made.spec.database}' AND table_name = 'Object_{chunk}'"
        run_sql(
            server,
            f"DELETE FROM {name} LIMIT {made.row_counts[chunk] - rows}",
            f"ALTER TABLE {name} ENGINE=InnoDB, STATS_PERSISTENT=1, STATS_AUTO_RECALC=0",
            f"USE `{made.spec.database}`",
            f"ANALYZE TABLE {name}",
            f"UPDATE mysql.innodb_table_stats SET n_rows = {figure} WHERE {where}",
            f"FLUSH TABLE {name}",
        )
        unlist(sandbox, made, f"chunk = {chunk}")
        run = build(made.spec.database)
        if rows:
            with pytest.raises(RequestError, match=f"chunk {chunk} on worker"):
                run.plan()
        else:
            assert run.plan().unlisted == ()

    def test_a_table_that_cannot_be_read_is_not_known_to_be_empty(
        self, made: CatalogSummary, build: Factory, sandbox: Sandbox
    ) -> None:
        chunk = chunk_of(made)
        server = sandbox.workers[worker_of(made, chunk)]
        unlist(sandbox, made, f"chunk = {chunk}")
        run_sql(server, f"FLUSH TABLE `{made.spec.database}`.`Object_{chunk}`")
        (server.data_dir / made.spec.database / f"Object_{chunk}.MYI").unlink()
        with pytest.raises(RequestError, match=f"chunk {chunk} on worker"):
            build(made.spec.database).plan()

    def test_other_copies_and_empty_tables_are_no_matter(
        self, made: CatalogSummary, build: Factory, sandbox: Sandbox
    ) -> None:
        chunk = chunk_of(made)
        other = "worker-2" if worker_of(made, chunk) == "worker-1" else "worker-1"
        name = f"`{made.spec.database}`.`Object_{chunk}`"
        run_sql(
            sandbox.workers[other],
            f"CREATE TABLE {name} (objectId BIGINT, subChunkId INT) ENGINE=MyISAM",
            f"INSERT INTO {name} VALUES (1, 1)",
            f"CREATE TABLE `{made.spec.database}`.`Object_77` (objectId BIGINT, subChunkId INT) ENGINE=MyISAM",
        )
        run = build(made.spec.database)
        assert run.run().rows == made.rows
        assert (run.plan_made.unlisted, run.plan_made.unchecked) == ((), ())

    def test_what_could_not_be_checked_is_said(self, made: CatalogSummary, build: Factory) -> None:
        run = build(made.spec.database)
        silence(run, "worker-2")
        plan = run.plan()
        assert plan.unchecked == (
            "whether worker 'worker-2', which did not answer, has chunks that the catalog does not list",
        )
