"""What cannot be built is refused, and nothing is touched."""

from __future__ import annotations

import pytest

from airflow_reindex.core.failures import Code, ConflictError, RequestError
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.director.failing import SPEC, Register, assert_old_index, configure, make_old_index
from tests.support.build import Build, Factory, run_sql, tables_of

pytestmark = pytest.mark.usefixtures("clean")


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
        assert "no such database 'nowhere'" in refused(build("nowhere"), Code.UNKNOWN_DATABASE)

    def test_unknown_table(self, registered: Register, build: Factory) -> None:
        name = registered()
        text = refused(build(name, director_table="Subject"), Code.UNKNOWN_TABLE)
        assert f"no such table 'Subject' found in the database '{name}'." in text

    @pytest.mark.parametrize("table", ["Source", "Filters"])
    def test_no_director_table(self, registered: Register, build: Factory, table: str) -> None:
        name = registered()
        text = refused(build(name, director_table=table), Code.NOT_DIRECTOR_TABLE)
        assert f"table '{table}' is not configured as a director table in database '{name}'" in text

    def test_not_published(self, registered: Register, build: Factory) -> None:
        name = registered(published=False)
        assert f"the director table 'Object' of the database '{name}' is not published." in refused(
            build(name), Code.UNPUBLISHED_TABLE
        )

    def test_no_key_configured(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"UPDATE config_database_table SET director_key = '' WHERE `database` = '{name}'")
        assert f"director table has not been properly configured in database '{name}'" in refused(
            build(name), Code.NO_DIRECTOR_KEY
        )

    def test_no_schema(self, registered: Register, build: Factory, sandbox: Sandbox) -> None:
        name = registered()
        configure(sandbox, f"DELETE FROM config_database_table_schema WHERE `database` = '{name}'")
        assert f"no schema found for director table 'Object' of database '{name}'" in refused(
            build(name), Code.NO_SCHEMA
        )

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
        ) in refused(build(name), Code.MISSING_COLUMN)

    @pytest.mark.parametrize("kind", ["VARCHAR(32) NOT NULL", "DOUBLE", "DECIMAL(20,0)", "BIT(64)"])
    def test_unsupported_key_type(self, registered: Register, build: Factory, sandbox: Sandbox, kind: str) -> None:
        name = registered()
        where = f"`database` = '{name}' AND col_name = 'objectId'"
        configure(sandbox, f"UPDATE config_database_table_schema SET col_type = '{kind}' WHERE {where}")
        assert f"unsupported type '{kind}' of column 'objectId'" in refused(build(name))

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


def refused(run: Build, code: Code | None = None) -> str:
    """Why a plan is refused; nothing is touched."""
    before = tables_of(run.sandbox, "qservMeta")
    with pytest.raises(RequestError) as caught:
        run.plan()
    databases = {str(name) for (name,) in run_sql(run.sandbox.czar, "SHOW DATABASES")}
    assert "airflow_reindex" not in databases
    assert tables_of(run.sandbox, "qservMeta") == before
    assert code is None or caught.value.code is code
    return str(caught.value)
