"""The first demonstration: a build of a whole index that is proven key by key, then one that fails and says why."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from MySQLdb.cursors import SSCursor
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate, truth
from sandbox.catalog.sphere import Ints
from sandbox.demo.runner import Stage
from sandbox.servers.cluster import INDEX_DATABASE, Sandbox
from sandbox.servers.datadir import SandboxError
from sandbox.servers.identifiers import quote

WHOLE = CatalogSpec()
BROKEN = CatalogSpec(database="sky_broken", rows=20_000, chunks=40, missing=1)
_DAG = "build_director_index"
_SIZE = "SELECT DATA_LENGTH + INDEX_LENGTH FROM information_schema.TABLES WHERE (TABLE_SCHEMA, TABLE_NAME) = (%s, %s)"


def show_director_index(stage: Stage) -> None:
    """Build an index of a sound catalog, then of a broken one.

    :param stage: where it is shown
    :raises SandboxError: if something comes out otherwise than it should
    """
    with Sandbox(stage.state / "sandbox") as sandbox:
        demo = _Demo(sandbox, stage)
        stage.connections = sandbox.connections()
        stage.say(f"{len(sandbox.servers)} private MariaDB servers are up, on 127.0.0.1 only")
        demo.prepare()
        demo.whole()
        demo.broken()
        stage.say("the servers are being stopped")


@dataclass
class _Demo:
    """What the parts of the demonstration share."""

    sandbox: Sandbox
    stage: Stage

    @property
    def say(self) -> Callable[..., None]:
        """Says a line."""
        return self.stage.say

    @property
    def console(self) -> Console:
        """Where tables go."""
        return self.stage.console

    def prepare(self) -> None:
        """Remove what a demonstration that was killed has left."""
        with contextlib.closing(self.sandbox.czar.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS airflow_reindex")

    def whole(self) -> None:
        """Build an index of a sound catalog and prove it."""
        self._generate(WHOLE)
        status, report = self._build(WHOLE)
        if status or report["status"] != "done":
            raise SandboxError(f"the build failed: {report['detail']}\n{self.stage.tail()}")
        self._show(report)
        self._show_index(WHOLE)
        self._prove(WHOLE)

    def broken(self) -> None:
        """Build an index of a catalog with a fault, and look at what is said of it."""
        self.say("the failure: a smaller catalog, where a chunk table is missing on the only worker that has the chunk")
        summary = self._generate(BROKEN)
        status, report = self._build(BROKEN)
        self._show(report)
        named = {failure["chunk"]: (failure["worker"],) for failure in report["failed_items"]}
        if not status or report["status"] != "failed" or named != summary.missing_on:
            raise SandboxError(f"it should have failed for {summary.missing_on}, not for {named}\n{self.stage.tail()}")
        with contextlib.closing(self._czar()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SHOW TABLES FROM {quote(INDEX_DATABASE)}")
            tables = [name for (name,) in cursor.fetchall()]
        if _index(BROKEN) in tables:
            raise SandboxError(f"{_index(BROKEN)} was published although its build failed")
        self.say(f"as it should: exit status {status}, and {INDEX_DATABASE} holds {', '.join(tables)} only", "green")
        self.say("the other chunks are staged: with the table back, clearing the failed tasks does what is left")

    def _generate(self, spec: CatalogSpec) -> CatalogSummary:
        self.say(f"making the catalog {spec.database}: {spec.rows:,} rows in {spec.chunks:,} chunks on 2 workers")

        def progress(done: int, total: int) -> None:
            if done % max(1, total // 4) == 0:
                self.say(f"  {done:,} of {total:,} chunks")

        return generate(self.sandbox, spec, progress)

    def _build(self, spec: CatalogSpec) -> tuple[int, dict[str, Any]]:
        """Run the DAG; its exit status and its report."""
        conf = {"database": spec.database, "director_table": spec.table, "rebuild": 1, "local": 0}
        return self.stage.run_dag(_DAG, conf)

    def _czar(self) -> Any:
        """As Airflow connects: with the account that has the documented grants only."""
        return self.sandbox.czar.connect("reindex")

    def _show(self, report: Mapping[str, Any]) -> None:
        bad = report["status"] != "done"
        self.console.print(
            f"\nstatus {report['status']}: {report['source']} -> {report['dest']}, {report['count']:,} of "
            f"{report['total']:,} chunks, {report['rows']:,} rows in the index", style="red" if bad else "green",
        )  # fmt: skip
        if bad:
            self.console.print(f"detail: {report['detail']}", markup=False, soft_wrap=True)
        else:
            self.stage.show_phases(report, "rows")
        errors = Table("table", "worker", "chunk", "message", title="error map", title_justify="left")
        for failure in report["failed_items"]:
            errors.add_row(*(escape(str(failure[name])) for name in ("table", "worker", "chunk", "message")))
        self.console.print(errors if bad else "error map: empty, no chunk failed")
        self.console.print()

    def _show_index(self, spec: CatalogSpec) -> None:
        """The table's definition and size, and look-ups as Qserv makes them."""
        table = f"{quote(INDEX_DATABASE)}.{quote(_index(spec))}"
        keys, chunks, sub_chunks = truth(spec).index_rows()
        some = np.linspace(0, keys.size - 1, 5).astype(int)[1:4]
        expected = {int(keys[i]): (int(chunks[i]), int(sub_chunks[i])) for i in some}
        absent = next(key for key in range(1, keys.size + 2) if keys[np.searchsorted(keys, key)] != key)
        select = f"SELECT {quote(spec.key_column)}, chunkId, subChunkId FROM {table} WHERE {quote(spec.key_column)} "  # noqa: S608 - names are quoted
        with contextlib.closing(self._czar()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SHOW CREATE TABLE {table}")
            self.console.print(cursor.fetchone()[1], markup=False)
            cursor.execute(_SIZE, (INDEX_DATABASE, _index(spec)))
            self.console.print(f"size: {int(cursor.fetchone()[0]) / 2**20:.0f} MiB\n")
            for wanted in (*([key] for key in expected), list(expected), [absent]):
                statement = select + (f"= {wanted[0]}" if len(wanted) == 1 else f"IN ({', '.join(map(str, wanted))})")
                began = time.perf_counter()
                cursor.execute(statement)
                rows = {key: (chunk, sub) for key, chunk, sub in cursor.fetchall()}
                spent = (time.perf_counter() - began) * 1e6
                if rows != {key: expected[key] for key in wanted if key in expected}:
                    raise SandboxError(f"{statement}: {rows}, but the catalog has {expected}")
                where = "; ".join(f"chunk {chunk}, sub-chunk {sub}" for chunk, sub in rows.values()) or "no such key"
                self.console.print(f"{statement.partition(' WHERE ')[2]}: {where} ({spent:,.0f} µs)", soft_wrap=True)

    def _prove(self, spec: CatalogSpec) -> None:
        """Compare the whole index with the catalog, key by key."""
        expected = truth(spec).index_rows()
        with contextlib.closing(self._czar()) as connection:
            found = _read(connection, spec)
        if not all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True)):
            raise SandboxError(f"the index, of {found[0].size:,} rows, differs from the catalog")
        self.console.print(
            f"all {found[0].size:,} rows equal the catalog, in key, chunk and sub-chunk\n", style="green"
        )


def _index(spec: CatalogSpec) -> str:
    return f"{spec.database}__{spec.table}"


def _read(connection: Any, spec: CatalogSpec) -> tuple[Ints, Ints, Ints]:
    """The whole index: keys, chunks and sub-chunks, by key."""
    blocks = [np.zeros((0, 3), dtype=np.int64)]
    with connection.cursor(SSCursor) as cursor:  # row by row from the server, so that memory does not bound it
        columns = f"{quote(spec.key_column)}, chunkId, subChunkId"
        cursor.execute(f"SELECT {columns} FROM {quote(INDEX_DATABASE)}.{quote(_index(spec))} ORDER BY 1, 2, 3")  # noqa: S608 - names are quoted
        while rows := cursor.fetchmany(50_000):
            blocks.append(np.array(rows, dtype=np.int64))
    keys, chunks, sub_chunks = np.concatenate(blocks).T
    return keys, chunks, sub_chunks
