"""Names that try to leave their quotes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest

from airflow_reindex.director.mysql.identifiers import quote
from sandbox.catalog import replication
from sandbox.servers import grants
from sandbox.servers.cluster import Sandbox
from tests.support.build import Factory, run_sql

Mode = Literal["replication", "scan"]

pytestmark = pytest.mark.usefixtures("clean")


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
