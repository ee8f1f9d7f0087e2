"""What is wrong is refused or reported, all of it, and nothing half-built is ever published."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from airflow_reindex.core.failures import ConflictError, DataError, ReindexError, RequestError, TransientError
from airflow_reindex.core.identifiers import quote
from airflow_reindex.core.report import Failure
from airflow_reindex.director import steps
from airflow_reindex.director.publish import verify
from airflow_reindex.director.records import read_split
from airflow_reindex.director.split import make_split
from airflow_reindex.sandbox import grants, replication
from airflow_reindex.sandbox.catalog import CatalogSpec, CatalogSummary, truth
from airflow_reindex.sandbox.cluster import Sandbox
from airflow_reindex.sandbox.fixtures import CatalogFactory
from tests.harness import Build, assert_same, clean_czar, run_sql, tables_of

SPEC = CatalogSpec(rows=4_000, chunks=12, empty_chunks=0)
OLD_ROWS = [(1, 2, 3), (4, 5, 6)]

Factory = Callable[..., Build]
Mode = Literal["replication", "scan"]


@pytest.fixture(autouse=True)
def clean(sandbox: Sandbox) -> Iterator[None]:
    """No test sees another's claims and indexes."""
    with clean_czar(sandbox):
        yield


def make_old_index(run: Build) -> None:
    """An index is there already."""
    run_sql(
        run.sandbox.czar,
        f"CREATE OR REPLACE TABLE {live(run)} (objectId BIGINT NOT NULL, chunkId INT, subChunkId INT, "
        "UNIQUE KEY (objectId)) ENGINE=InnoDB",
        f"INSERT INTO {live(run)} VALUES {', '.join(map(str, OLD_ROWS))}",
    )


def live(run: Build) -> str:
    """The index table."""
    return f"qservMeta.`{run.request.index_table}`"


def assert_old_index(run: Build) -> None:
    """The old index is as it was."""
    assert run_sql(run.sandbox.czar, f"SELECT * FROM {live(run)} ORDER BY 1") == OLD_ROWS


def fails(step: Callable[[int], None], numbers: Sequence[int], kind: type[ReindexError]) -> list[str]:
    """Run all tasks of a step; the messages of those that fail, all of one kind."""
    errors = []
    for number in numbers:
        try:
            step(number)
        except ReindexError as error:
            errors.append(error)
    assert {type(error) for error in errors} <= {kind}
    return [str(error) for error in errors]


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


def worker_of(made: CatalogSummary, chunk: int) -> str:
    """The only worker that has a chunk."""
    (worker,) = made.placement[chunk]
    return worker


def change(sandbox: Sandbox, made: CatalogSummary, chunk: int, *statements: str) -> None:
    """Change a chunk table, which the statements call {table}."""
    table = f"`{made.spec.database}`.`Object_{chunk}`"
    run_sql(sandbox.workers[worker_of(made, chunk)], *(text.format(table=table) for text in statements))


class TestFaultsOfTables:
    @pytest.mark.parametrize("rebuild", [0, 1])
    def test_missing_table(self, catalog: CatalogFactory, build: Factory, rebuild: int) -> None:
        made = catalog(replace(SPEC, missing=1))
        (chunk,) = made.faults.missing
        run = build(made.spec.database, rebuild=rebuild)
        (failure,) = extract_failures(run)
        assert (failure.table, failure.worker, failure.chunk) == ("Object", worker_of(made, chunk), chunk)
        assert failure.message == (f"error: Table '{made.spec.database}.Object_{chunk}' doesn't exist, errno: 1146")
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
        run.split()
        run.load_all()
        run.publish()
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_null_keys(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, null_keys=7))
        found = extract_failures(build(made.spec.database, rebuild=1))
        assert {f.chunk: f.message.split(" of ")[0] for f in found} == {
            chunk: f"column 'objectId' is NULL in {count} row(s)" for chunk, count in made.faults.null_keys.items()
        }

    def test_table_without_sub_chunks(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, no_sub_chunk=2))
        found = extract_failures(build(made.spec.database, rebuild=1))
        assert tuple(failure.chunk for failure in found) == made.faults.no_sub_chunk
        assert all("Unknown column 'subChunkId'" in f.message and "errno: 1054" in f.message for f in found)

    def test_key_out_of_range(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        made = catalog(SPEC, fresh=True)
        chunk = min(made.placement)
        change(
            sandbox,
            made,
            chunk,
            "ALTER TABLE {table} MODIFY objectId BIGINT UNSIGNED NOT NULL",
            f"UPDATE {{table}} SET objectId = {2**63 + 5} LIMIT 1",
        )
        (failure,) = extract_failures(build(made.spec.database, rebuild=1))
        assert failure.chunk == chunk
        assert failure.message == "column 'objectId' has 1 value(s) out of range for BIGINT: 9223372036854775813"

    def test_sub_chunk_out_of_range(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        made = catalog(SPEC, fresh=True)
        chunk = max(made.placement)
        change(
            sandbox,
            made,
            chunk,
            "ALTER TABLE {table} MODIFY subChunkId INT NOT NULL",
            "UPDATE {table} SET subChunkId = -1 LIMIT 1",
        )
        (failure,) = extract_failures(build(made.spec.database, rebuild=1))
        assert (failure.chunk, failure.message) == (
            chunk,
            "column 'subChunkId' has 1 value(s) out of range for INT UNSIGNED: -1",
        )

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


class TestDuplicates:
    def load_failures(self, run: Build) -> dict[int, Failure]:
        """What the loads of a build report, by chunk; it must not come to an index."""
        make_old_index(run)
        run.rows_per_task = 1_500
        run.to_load()
        numbers = [key_range.number for key_range in read_split(run.folder).ranges]
        assert len(numbers) > 1
        assert fails(run.load, numbers, DataError)
        # A retry says the same.
        assert fails(run.load, numbers, DataError)
        with pytest.raises(DataError, match="rows were extracted, but"):
            run.publish()
        assert_old_index(run)
        found: dict[int, Failure] = {}
        for failure in run.failures("load"):
            text = f"{found[failure.chunk].message}; " if failure.chunk in found else ""
            found[failure.chunk] = replace(failure, message=text + failure.message)
        return found

    @pytest.fixture
    def small_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Several ranges of several slices."""
        monkeypatch.setattr(make_split, "__defaults__", (300,))

    @pytest.mark.usefixtures("small_slices")
    def test_within_a_chunk(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, duplicates_within=6))
        found = self.load_failures(build(made.spec.database, rebuild=1))
        assert set(found) == set(made.faults.duplicates_within.values())
        for key, chunk in made.faults.duplicates_within.items():
            assert str(key) in found[chunk].message
            assert "twice within the chunk" in found[chunk].message
            assert found[chunk].worker == worker_of(made, chunk)

    @pytest.mark.usefixtures("small_slices")
    def test_across_chunks(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, duplicates_across=6))
        found = self.load_failures(build(made.spec.database, rebuild=1))
        assert set(found) == {chunk for pair in made.faults.duplicates_across.values() for chunk in pair}
        for key, (one, other) in made.faults.duplicates_across.items():
            for chunk, with_whom in ((one, other), (other, one)):
                texts = [text for text in found[chunk].message.split("; ") if f"also in chunk {with_whom}" in text]
                assert any(str(key) in text for text in texts)
                assert found[chunk].worker == worker_of(made, chunk)

    @pytest.mark.usefixtures("small_slices")
    @pytest.mark.parametrize("local", [0, 1])
    @pytest.mark.parametrize("configured", [True, False], ids=["param", "catalog"])
    def test_non_unique_index_takes_them(
        self, catalog: CatalogFactory, build: Factory, local: int, configured: bool
    ) -> None:
        made = catalog(replace(SPEC, duplicates_within=5, duplicates_across=5, unique=configured))
        params = {"unique_primary_key": 0} if configured else {}
        run = build(made.spec.database, rebuild=1, local=local, **params)
        assert run.run().rows == made.rows
        assert_same(run.index(), truth(made.spec).index_rows())

    @pytest.mark.usefixtures("small_slices")
    def test_param_makes_a_configured_key_unique(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, duplicates_within=5, duplicates_across=5, unique=False))
        assert self.load_failures(build(made.spec.database, rebuild=1, unique_primary_key=1))


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
        finally:
            sandbox.workers[down].start()
        staged = run.staged_chunks()
        assert sorted([*staged, *mine]) == sorted({*made.placement, 1234567890})
        run.extract_all()
        assert run.staged_chunks() == sorted({*made.placement, 1234567890})
        run.split()
        run.load_all()
        run.publish()
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
        run.split()
        run.load_all()
        run.publish()
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_connection_that_is_taken_away_after_the_plan(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(SPEC)
        run = build(made.spec.database, rebuild=1)
        run.plan()
        run.servers = replace(run.servers, workers={"worker-1": run.servers.workers["worker-1"]})
        messages = fails(run.extract, range(len(run.plan_made.groups)), DataError)
        assert messages
        assert all("no MySQL connection for worker 'worker-2'" in text for text in messages)

    @staticmethod
    def counted(run: Build, name: str, connects: list[str]) -> Callable[[], Any]:
        """A way to connect that counts."""

        def connect() -> Any:
            connects.append(name)
            return run.sandbox.workers[name].connect("reindex")

        return connect


class TestKeys:
    def test_unsigned_keys_above_the_signed_range(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(make_split, "__defaults__", (300,))
        made = catalog(replace(SPEC, key_type="BIGINT UNSIGNED NOT NULL"), fresh=True)
        rows = set(zip(*(column.tolist() for column in truth(made.spec).index_rows()), strict=True))
        for number, chunk in enumerate(sorted(made.placement)):
            keys = [2**63 - 1 + number, 2**64 - 1 - number, 2**63 + 10**18 + number]
            values = ", ".join(f"(1, 1, {key}, 0, {chunk}, 7)" for key in keys)
            change(
                sandbox,
                made,
                chunk,
                f"INSERT INTO {{table}} (ra, decl, objectId, flags, chunkId, subChunkId) VALUES {values}",
            )
            rows |= {(key, chunk, 7) for key in keys}
        run = build(made.spec.database)
        run.rows_per_task = 1_000
        assert run.run().rows == len(rows)
        assert run_sql(sandbox.czar, f"SELECT * FROM {live(run)} ORDER BY objectId") == sorted(rows)

    def test_duplicate_of_the_largest_key(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        made = catalog(replace(SPEC, key_type="BIGINT UNSIGNED NOT NULL"), fresh=True)
        chunks = sorted(made.placement)[:2]
        for chunk in chunks:
            change(sandbox, made, chunk, f"UPDATE {{table}} SET objectId = {2**64 - 1} LIMIT 1")
        run = build(made.spec.database)
        run.to_load()
        assert fails(run.load, [r.number for r in read_split(run.folder).ranges], DataError)
        assert [f.chunk for f in run.failures("load")] == chunks
        assert all(str(2**64 - 1) in f.message for f in run.failures("load"))


class TestLoadSettings:
    def test_local(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(SPEC)
        run = build(made.spec.database, rebuild=1, local=1)
        # Nothing is shared with the server.
        run.servers = replace(run.servers, staging_dir=None, server_staging_dir=None)
        assert run.run().rows == made.rows
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_local_infile_is_off(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        with set_global(sandbox, "local_infile", "0", "1"):
            text = self.refusal(catalog, build, local=1)
        assert "set local_infile=1 on the czar's server, or use local=0" in text

    def test_file_privilege_is_missing(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        file_grant = tuple(grant for grant in grants.CZAR_GRANTS if grant.privileges == ("FILE",))
        assert len(file_grant) == 1
        with contextlib.closing(sandbox.czar.connect()) as root:
            grants.take(root, file_grant)
            try:
                text = self.refusal(catalog, build)
            finally:
                grants.give(root, file_grant)
        assert "the FILE privilege" in text
        assert "local=1" in text

    def test_secure_file_priv_is_another_folder(self, catalog: CatalogFactory, build: Factory, tmp_path: Path) -> None:
        text = self.refusal(catalog, build, staging_dir=str(tmp_path), server_staging_dir=str(tmp_path))
        assert "secure_file_priv does not allow 'server_staging_dir'" in text
        assert "local=1" in text
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tsv"] == []

    def test_server_sees_another_folder(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        elsewhere = sandbox.czar.infile_dir / "elsewhere"
        elsewhere.mkdir()
        try:
            text = self.refusal(catalog, build, server_staging_dir=str(elsewhere))
        finally:
            elsewhere.rmdir()
        assert "must be one folder, readable by the server" in text
        assert "local=1" in text

    def test_staging_dir_is_not_mounted(self, catalog: CatalogFactory, build: Factory, tmp_path: Path) -> None:
        text = self.refusal(catalog, build, staging_dir=str(tmp_path / "nowhere"))
        assert "is not a folder on this machine" in text

    def test_no_shared_folder(self, catalog: CatalogFactory, build: Factory) -> None:
        text = self.refusal(catalog, build, staging_dir=None)
        assert "set 'staging_dir'" in text
        assert "local=1" in text

    @staticmethod
    def refusal(catalog: CatalogFactory, build: Factory, local: int = 0, **changes: Any) -> str:
        """Why a plan is refused; nothing is touched."""
        run = build(catalog(SPEC).spec.database, rebuild=1, local=local)
        run.servers = replace(run.servers, **changes)
        make_old_index(run)
        with pytest.raises(RequestError) as caught:
            run.plan()
        assert run.working_tables() == []
        assert list(run.sandbox.czar.infile_dir.glob("reindex-*")) == []
        assert_old_index(run)
        return str(caught.value)

    def test_server_that_soon_hangs_up_on_idle_clients(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = build(catalog(SPEC).spec.database, rebuild=1)

        def slow_verify(*args: Any) -> int:
            time.sleep(1.5)  # the condition under test is the time itself
            return verify(*args)

        monkeypatch.setattr(steps, "verify", slow_verify)
        with set_global(sandbox, "wait_timeout", "1", "28800"):
            run.run()
        assert_same(run.index(), truth(SPEC).index_rows())


@contextlib.contextmanager
def set_global(sandbox: Sandbox, name: str, value: str, back: str) -> Iterator[None]:
    """Change a setting of the czar's server for a while."""
    run_sql(sandbox.czar, f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        run_sql(sandbox.czar, f"SET GLOBAL {name} = {back}")


class TestRefusals:
    def test_existing_index_without_rebuild(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(SPEC)
        run = build(made.spec.database)
        make_old_index(run)
        with pytest.raises(ConflictError) as caught:
            run.plan()
        assert f"Table '{run.request.index_table}' already exists" in str(caught.value)
        assert "errno: 1050" in str(caught.value)
        assert run.working_tables() == []
        assert_old_index(run)

    def test_index_that_appears_during_a_build_without_rebuild(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(SPEC, fresh=True)
        run = build(made.spec.database)
        run.to_load()
        run.load_all()
        make_old_index(run)
        with pytest.raises(ConflictError, match="already exists"):
            run.publish()
        assert_old_index(run)

    @pytest.mark.parametrize("there_before", [False, True])
    def test_dry_run_leaves_nothing(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox, there_before: bool
    ) -> None:
        made = catalog(SPEC)
        run_sql(sandbox.czar, "DROP DATABASE IF EXISTS airflow_reindex")
        if there_before:
            run_sql(sandbox.czar, "CREATE DATABASE airflow_reindex")
        run = build(made.spec.database, dry_run=1, rebuild=1)
        before = tables_of(sandbox, "qservMeta")
        assert run.plan().token == ""
        databases = {str(name) for (name,) in run_sql(sandbox.czar, "SHOW DATABASES")}
        assert ("airflow_reindex" in databases) is there_before
        assert run.working_tables() == []
        assert tables_of(sandbox, "qservMeta") == before
        assert run.folder.names() == ["tasks"]
        assert run.folder.names("tasks") == ["plan--1.json"]
        result = run.folder.read_json("tasks/plan--1.json")["result"]
        assert (result["dry_run"], result["rows"]) == (True, made.rows)
        assert list(sandbox.czar.infile_dir.glob("reindex-*")) == []

    def test_chunk_on_a_worker_without_connection(self, registered: Register, build: Factory) -> None:
        name = registered({7: ("worker-9",)})
        text = "chunk 7 is placed on worker 'worker-9', for which the qserv connection has no server: add it"
        assert refused(build(name)).startswith(text)

    def test_unknown_database(self, build: Factory) -> None:
        assert "no such database 'nowhere'" in refused(build("nowhere"))

    def test_unknown_table(self, registered: Register, build: Factory) -> None:
        name = registered()
        text = refused(build(name, director_table="Subject"))
        assert f"no such table 'Subject' found in the database '{name}'." in text

    @pytest.mark.parametrize("table", ["Source", "Filters"])
    def test_no_director_table(self, registered: Register, build: Factory, table: str) -> None:
        name = registered()
        text = refused(build(name, director_table=table))
        assert f"table '{table}' is not configured as a director table in database '{name}'" in text

    def test_not_published(self, registered: Register, build: Factory) -> None:
        name = registered(published=False)
        text = refused(build(name))
        assert f"the director table 'Object' of the database '{name}' is not published." in text

    def test_no_key_configured(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"UPDATE config_database_table SET director_key = '' WHERE `database` = '{name}'")
        text = refused(build(name))
        assert f"director table has not been properly configured in database '{name}'" in text

    def test_no_schema(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"DELETE FROM config_database_table_schema WHERE `database` = '{name}'")
        text = refused(build(name))
        assert f"no schema found for director table 'Object' of database '{name}'" in text

    @pytest.mark.parametrize("column", ["objectId", "subChunkId"])
    def test_columns_missing_in_the_schema(
        self, registered: Register, build: Factory, sandbox: Sandbox, column: str
    ) -> None:
        name = registered()
        where = f"`database` = '{name}' AND col_name = '{column}'"
        configure(sandbox, f"DELETE FROM config_database_table_schema WHERE {where}")
        assert (
            "column definitions for the director key or sub-chunk identifier columns are missing in the director "
            f"table schema for table 'Object' of database '{name}'"
        ) in refused(build(name))

    @pytest.mark.parametrize("kind", ["VARCHAR(32) NOT NULL", "DOUBLE", "DECIMAL(20,0)", "BIT(64)"])
    def test_unsupported_key_type(self, registered: Register, build: Factory, sandbox: Sandbox, kind: str) -> None:
        name = registered()
        where = f"`database` = '{name}' AND col_name = 'objectId'"
        configure(sandbox, f"UPDATE config_database_table_schema SET col_type = '{kind}' WHERE {where}")
        assert f"unsupported key type '{kind}' of column 'objectId'" in refused(build(name))

    def test_chunk_table_name_is_too_long(self, registered: Register, build: Factory) -> None:
        table = "T" * 56
        name = registered(table=table)
        text = refused(build(name, director_table=table))
        assert f"MySQL table name limit of 64 characters has been exceeded for table '{table}_1234567890'." in text

    def test_index_name_is_too_long(self, build: Factory) -> None:
        with pytest.raises(RequestError) as caught:
            build("d" * 32, director_table="t" * 31)
        name = f"{'d' * 32}__{'t' * 31}"
        assert f"MySQL table name limit of 64 characters has been exceeded for table '{name}'." in str(caught.value)


Register = Callable[..., str]


@pytest.fixture
def registered(sandbox: Sandbox) -> Iterator[Register]:
    """A factory of catalogs that are registered, but have no tables: what is refused is refused before they matter."""
    name = "paper"

    def register(placement: dict[int, tuple[str, ...]] | None = None, **spec: Any) -> str:
        with contextlib.closing(sandbox.czar.connect()) as root:
            replication.create_tables(root, sandbox.workers)
            replication.register(
                root, CatalogSpec(database=name, **spec), placement or {7: ("worker-1",), 1234567890: ("worker-1",)}
            )
        return name

    yield register
    with contextlib.closing(sandbox.czar.connect()) as root:
        replication.forget(root, name)


def configure(sandbox: Sandbox, statement: str) -> None:
    """Change the replication system's tables."""
    run_sql(sandbox.czar, "USE qservReplica", statement)


def refused(run: Build) -> str:
    """Why a plan is refused; nothing is touched."""
    before = tables_of(run.sandbox, "qservMeta")
    with pytest.raises(RequestError) as caught:
        run.plan()
    databases = {str(name) for (name,) in run_sql(run.sandbox.czar, "SHOW DATABASES")}
    assert "airflow_reindex" not in databases
    assert tables_of(run.sandbox, "qservMeta") == before
    return str(caught.value)


class TestEmptyCatalogs:
    def test_empty_chunk_tables(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(CatalogSpec(rows=0, chunks=6, empty_chunks=6))
        self.build_empty(build(made.spec.database))

    def test_no_chunks(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"DELETE FROM replica WHERE `database` = '{name}'")
        run = build(name)
        self.build_empty(run)
        assert run.plan_made.groups == ()

    @staticmethod
    def build_empty(run: Build) -> None:
        """The index is there, and has no rows."""
        assert run.run().rows == 0
        assert run_sql(run.sandbox.czar, f"SELECT COUNT(*) FROM {live(run)}") == [(0,)]
        run.finish()
        assert run.working_tables() == []


class TestStrangeNames:
    DATABASE, TABLE, KEY = "we`ird.%s db'", 'Ob`j.%d"; DROP TABLE x -- ', "k`ey.%(x)s'\" OR 1=1"

    @pytest.fixture
    def strange(self, sandbox: Sandbox) -> Iterator[list[tuple[int, int, int]]]:
        """A catalog made by hand; its rows."""
        table = self.TABLE.strip()
        rows = [(chunk * 1000 + i, chunk, i % 3) for chunk in (5, 6, 7) for i in range(40)]
        pattern = "`" + self.DATABASE.replace("`", "``").replace("%", "\\%") + "`"
        for name, server in sandbox.workers.items():
            mine = [5, 7] if name == "worker-1" else [6]
            statements = [f"CREATE DATABASE {self.plain(self.DATABASE)}"]
            for chunk in mine:
                where = self.plain(self.DATABASE, f"{table}_{chunk}")
                values = ", ".join(f"({key}, {sub})" for key, number, sub in rows if number == chunk)
                statements += [
                    f"CREATE TABLE {where} ({self.plain(self.KEY)} BIGINT, subChunkId INT) ENGINE=MyISAM",
                    f"INSERT INTO {where} VALUES {values}",
                ]
            # A table that only looks like one of its chunks.
            statements.append(f"CREATE TABLE {self.plain(self.DATABASE, f'{table}X_9')} (a INT)")
            statements += [f"GRANT SELECT ON {pattern}.* TO 'reindex'@'{host}'" for host in grants.ACCOUNT_HOSTS]
            run_sql(server, *statements)
        self.register(sandbox, table)
        yield rows
        for server in sandbox.workers.values():
            revoke = [f"REVOKE SELECT ON {pattern}.* FROM 'reindex'@'{host}'" for host in grants.ACCOUNT_HOSTS]
            run_sql(server, f"DROP DATABASE {self.plain(self.DATABASE)}", *revoke)
        with contextlib.closing(sandbox.czar.connect()) as root:
            replication.forget(root, self.DATABASE)

    def register(self, sandbox: Sandbox, table: str) -> None:
        """Enter the catalog in the replication system's tables."""
        with contextlib.closing(sandbox.czar.connect()) as root:
            replication.create_tables(root, sandbox.workers)
            cursor = root.cursor()
            cursor.execute("USE qservReplica")
            cursor.execute("INSERT INTO config_database VALUES (%s, 'sandbox', 1, 0, 0)", (self.DATABASE,))
            cursor.execute(
                "INSERT INTO config_database_table (`database`, `table`, is_published, is_partitioned, director_key, "
                "unique_primary_key) VALUES (%s, %s, 1, 1, %s, 1)",
                (self.DATABASE, table, self.KEY),
            )
            for position, (column, kind) in enumerate([(self.KEY, "BIGINT"), ("subChunkId", "INT")]):
                cursor.execute(
                    "INSERT INTO config_database_table_schema VALUES (%s, %s, %s, %s, %s)",
                    (self.DATABASE, table, position, column, kind),
                )
            for chunk, worker in ((5, "worker-1"), (6, "worker-2"), (7, "worker-1")):
                cursor.execute(
                    "INSERT INTO replica (worker, `database`, chunk) VALUES (%s, %s, %s)",
                    (worker, self.DATABASE, chunk),
                )

    @staticmethod
    def plain(*parts: str) -> str:
        """Quoted for a statement that is taken literally."""
        return quote(*parts).replace("%%", "%")

    @pytest.mark.parametrize("mode", ["replication", "scan"])
    @pytest.mark.parametrize("local", [0, 1])
    def test_index_is_right(
        self, strange: list[tuple[int, int, int]], build: Factory, sandbox: Sandbox, mode: Mode, local: int
    ) -> None:
        table = self.TABLE.strip()
        run = build(self.DATABASE, director_table=table, local=local, rebuild=1, director_key=self.KEY, keep_previous=1)
        run.servers = replace(run.servers, catalog=mode)
        index = self.plain("qservMeta", f"{self.DATABASE}__{table}")
        for _ in range(2):
            assert run.run().rows == len(strange)
            found = run_sql(sandbox.czar, f"SELECT {self.plain(self.KEY)}, chunkId, subChunkId FROM {index} ORDER BY 1")
            assert found == sorted(strange)
            run.finish()
        # The second build has kept the first one's table.
        assert [name.split("_")[0] for name in run.working_tables()] == ["previous"]
