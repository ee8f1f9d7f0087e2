"""Reads that are cut short without an error are found: by settings, by damage, by what lies between."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.core.report import Status
from airflow_reindex.director.mysql import integer_reader, session_settings
from airflow_reindex.director.mysql.binary_protocol import usable
from airflow_reindex.director.mysql.client import query, session
from sandbox.catalog.catalog import CatalogSummary, truth
from sandbox.servers.cluster import Sandbox
from sandbox.servers.servers import MariaDBServer
from tests.director.auditing import Audit
from tests.director.cutting import CuttingProxy
from tests.director.failing import assert_old_index, change, make_old_index, worker_of
from tests.support.build import Factory, assert_same, run_sql

pytestmark = pytest.mark.usefixtures("clean")

#: A value of each setting under which a build would be wrong, slow or refused.
HOSTILE = {
    "sql_mode": "'ANSI_QUOTES,PIPES_AS_CONCAT,NO_UNSIGNED_SUBTRACTION,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'",
    "sql_select_limit": "1",
    "max_join_size": "1",
    "sql_big_selects": "0",
    "sql_safe_updates": "1",
    "sql_auto_is_null": "1",
    "completion_type": "'RELEASE'",
    "time_zone": "'+13:00'",
    "sql_notes": "0",
    "max_error_count": "0",
    "unique_checks": "0",
    "foreign_key_checks": "0",
    "lock_wait_timeout": "0",
    "innodb_lock_wait_timeout": "0",
    "wait_timeout": "1",
    "net_write_timeout": "1",
    "net_read_timeout": "1",
    "max_statement_time": "0.000001",
    "idle_transaction_timeout": "1",
    "idle_readonly_transaction_timeout": "1",
    "idle_write_transaction_timeout": "1",
    "system_versioning_asof": "'2001-01-01 00:00:00'",
    "sql_if_exists": "1",
}
HOSTILE_TO_TRANSACTIONS = {"tx_isolation": "'READ-UNCOMMITTED'", "tx_read_only": "1"}
#: Whether the server sees by itself that a table is damaged depends on where the damage lies.
TOLD = re.compile(r"[\d,]+ rows were read, the table has 1,917: it is damaged|is marked as crashed")
OF_MARIADB = [one for one in session_settings.SETTINGS if not one.only.startswith("/*!5")]


@contextlib.contextmanager
def globally(server: MariaDBServer, values: dict[str, str]) -> Iterator[None]:
    """Other settings for new connections to a server."""
    before = {name: run_sql(server, f"SELECT @@GLOBAL.{name}")[0][0] for name in values}
    # In one statement: connections that are made between two of them would not get through.
    with contextlib.closing(server.connect()) as root, root.cursor() as cursor:
        cursor.execute("SET " + ", ".join(f"@@GLOBAL.{name} = {value}" for name, value in values.items()))
        try:
            yield
        finally:
            back = {
                k: "DEFAULT" if v == "DEFAULT" else f"'{v}'" if isinstance(v, str) else v for k, v in before.items()
            }
            cursor.execute("SET " + ", ".join(f"@@GLOBAL.{name} = {value}" for name, value in back.items()))


class TestSettings:
    def test_each_one_is_pinned(self, sandbox: Sandbox) -> None:
        server = sandbox.workers["worker-1"]
        assert set(HOSTILE) == {one.name for one in OF_MARIADB}
        assert all(one.reason for one in session_settings.SETTINGS)
        names = ", ".join(f"@@SESSION.{name}" for name in (*HOSTILE, *HOSTILE_TO_TRANSACTIONS))
        with session(lambda: server.connect("reindex")) as connection:
            well = query(connection, f"SELECT {names}")
            # Else the rows that are read and those that are counted would be of two snapshots.
            assert query(connection, "SELECT @@SESSION.tx_isolation, @@SESSION.tx_read_only") == [
                ("REPEATABLE-READ", 0)
            ]
        with globally(server, HOSTILE | HOSTILE_TO_TRANSACTIONS):
            with session(lambda: server.connect("reindex")) as connection:
                assert query(connection, f"SELECT {names}") == well
            with contextlib.closing(server.connect("reindex")) as connection:
                connection.query("SET sql_select_limit = 2")
                differ = zip(query(connection, f"SELECT {names}")[0], well[0], strict=True)
                assert all(one != other for one, other in differ)

    def test_hostile_servers(self, sky: CatalogSummary, build: Factory, sandbox: Sandbox, tmp_path: Path) -> None:
        run = build(sky.spec.database, rebuild=1)
        make_old_index(run)
        # What an administrator has every session of an account begin with.
        begin = {"init_connect": '"SET SESSION sql_select_limit = 3, sql_if_exists = 1, NAMES latin1"'}
        with contextlib.ExitStack() as stack:
            for server in (sandbox.czar, *sandbox.workers.values()):
                stack.enter_context(globally(server, HOSTILE | HOSTILE_TO_TRANSACTIONS | begin))
            run.run()
            assert Audit(sandbox, tmp_path, sky.spec.database).run().status == Status.DONE
        assert_same(run.index(), truth(sky.spec).index_rows())


def zero_a_block(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4 // 512 * 512)
        file.write(bytes(4_096))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "a block of zeros": zero_a_block,
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    def test_damaged_table(
        self, sky: CatalogSummary, build: Factory, sandbox: Sandbox, tmp_path: Path, damage: Callable[[Path], None]
    ) -> None:
        chunk = max(sky.row_counts, key=lambda number: sky.row_counts[number])
        run = build(sky.spec.database, rebuild=1)
        run.run()
        before = run.index()
        change(sandbox, sky, chunk, "FLUSH TABLES {table}")
        damage(sandbox.workers[worker_of(sky, chunk)].data_dir / sky.spec.database / f"Object_{chunk}.MYD")
        change(sandbox, sky, chunk, "FLUSH TABLES {table}")
        again = build(sky.spec.database, rebuild=1, run_id="again")
        again.plan()
        with pytest.raises(DataError):
            again.extract_all()
        (failure,) = again.failures("extract")
        assert (failure.chunk, failure.worker) == (chunk, worker_of(sky, chunk))
        assert TOLD.search(failure.message)
        assert_same(run.index(), before)
        report = Audit(sandbox, tmp_path, sky.spec.database).run()
        assert report.status == Status.FAILED
        assert TOLD.search(str(report.error_ext))


class TestProxies:
    @pytest.mark.parametrize("engine", ["MyISAM", "InnoDB"])
    @pytest.mark.parametrize("fast", [True, False])
    def test_results_that_are_cut(
        self,
        sky: CatalogSummary,
        build: Factory,
        sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        engine: str,
        fast: bool,
    ) -> None:
        monkeypatch.setattr(integer_reader, "usable", lambda connection: fast and usable(connection))
        chunk = max(sky.row_counts, key=lambda number: sky.row_counts[number])
        worker, rows = worker_of(sky, chunk), sky.row_counts[chunk]
        change(sandbox, sky, chunk, "ALTER TABLE {table} ENGINE=" + engine)
        run = build(sky.spec.database, rebuild=1)
        make_old_index(run)
        with CuttingProxy(sandbox.workers[worker].port, rows - 1) as proxy:
            server = sandbox.workers[worker]
            behind = MariaDBServer("behind", server.folder, port=proxy.port, passwords=server.passwords)
            run.servers = replace(
                run.servers, workers={**run.servers.workers, worker: lambda: behind.connect("reindex")}
            )
            run.plan()
            with pytest.raises(DataError):
                run.extract_all()
        assert {f.chunk for f in run.failures("extract")} == {chunk}
        assert f"{rows - 1:,} rows were read, the table has {rows:,}" in run.failures("extract")[0].message
        assert_old_index(run)
