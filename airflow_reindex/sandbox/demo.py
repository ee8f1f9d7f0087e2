"""The demonstration: a build of a whole index that is proven key by key, then one that fails and says why."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from MySQLdb.cursors import SSCursor
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from airflow_reindex.sandbox import processes
from airflow_reindex.sandbox.catalog import CatalogSpec, CatalogSummary, generate, truth
from airflow_reindex.sandbox.cluster import INDEX_DATABASE, Sandbox
from airflow_reindex.sandbox.datadir import SandboxError
from airflow_reindex.sandbox.names import quote
from airflow_reindex.sandbox.sphere import Ints

WHOLE = CatalogSpec()
BROKEN = CatalogSpec(database="sky_broken", rows=20_000, chunks=40, missing=1)
_DAG = "build_director_index"
_TERMINAL = sys.stdout.isatty()
_LINE = re.compile(r"\S+Z \[(?P<level>\w+) *\] (?P<text>.*?) +\[(?P<logger>[\w.]+)\]")
_TASK = re.compile(r"\[DAG TEST\] (?P<what>starting|end task) task_id=(?P<task>\w+) map_index=(?P<index>-?\d+)")
_STATE = re.compile(r"\bnew_state=(\w+)")
_SIZE = "SELECT DATA_LENGTH + INDEX_LENGTH FROM information_schema.TABLES WHERE (TABLE_SCHEMA, TABLE_NAME) = (%s, %s)"


def run(state: Path, dags: Path) -> None:
    """Run the demonstration.

    :param state: folder of everything that it makes; what lies there from an earlier call is used again
    :param dags: the folder with the project's DAGs
    :raises SandboxError: if something comes out otherwise than it should
    """
    if not (dags / f"{_DAG}.py").is_file():
        raise SandboxError(f"{dags} holds no DAG {_DAG}: the demonstration needs a checkout of the project")
    # The servers must be stopped, and Airflow with them, when somebody ends this process.
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda number, _: sys.exit(128 + number))
    (state / "demo").mkdir(parents=True, exist_ok=True)
    with _alone(state / "demo"), Sandbox(state / "sandbox") as sandbox:
        demo = _Demo(sandbox, state.absolute(), dags.absolute())
        demo.say(f"{len(sandbox.servers)} private MariaDB servers are up, on 127.0.0.1 only")
        demo.prepare()
        demo.whole()
        demo.broken()
        demo.say("done; the servers are being stopped")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxError("another demonstration is running in this folder") from None
        yield


@dataclass
class _Demo:
    """What the parts of the demonstration share."""

    sandbox: Sandbox
    state: Path
    dags: Path
    # Without a terminal, rich would take 80 columns and no colours.
    console: Console = field(default_factory=lambda: Console(highlight=False, width=None if _TERMINAL else 160))
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str, style: str = "") -> None:
        """One line with the time since the start."""
        self.console.print(f"{time.monotonic() - self.began:6.1f} s  {text}", style=style, markup=False, soft_wrap=True)

    def prepare(self) -> None:
        """Remove what a demonstration that was killed has left, and make Airflow's database."""
        for pid in processes.find(self._mark):
            processes.end(pid, self._mark, grace_seconds=0)
        self._log.unlink(missing_ok=True)
        with contextlib.closing(self.sandbox.czar.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS airflow_reindex")
        mark = self.state / "airflow" / f"migrated-{version('apache-airflow-core')}"
        if not mark.exists():
            self.say("airflow db migrate")
            if self._airflow("db", "migrate"):
                raise SandboxError(f"airflow db migrate failed\n{self._tail()}")
            mark.touch()

    def whole(self) -> None:
        """Build an index of a sound catalog and prove it."""
        self._generate(WHOLE)
        status, report = self._build(WHOLE)
        if status or report["status"] != "done":
            raise SandboxError(f"the build failed: {report['detail']}\n{self._tail()}")
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
            raise SandboxError(f"it should have failed for {summary.missing_on}, not for {named}\n{self._tail()}")
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
        arguments = ("dags", "test", _DAG, "-c", json.dumps(conf))
        self.say(f"airflow {shlex.join(arguments)}", "bold")
        runs = self.state / "staging" / _DAG
        before = set(runs.glob("*"))
        status = self._airflow(*arguments)
        for folder in set(runs.glob("*")) - before:
            if (folder / "report.json").exists():
                report: dict[str, Any] = json.loads((folder / "report.json").read_text())
                return status, report
        raise SandboxError(f"the run ended with exit status {status} and left no report\n{self._tail()}")

    def _airflow(self, *arguments: str) -> int:
        """Run Airflow with nothing of this process's own Airflow settings; its output goes to the log."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FORCE_COLOR"))}
        env |= {
            **self.sandbox.connections(),
            "AIRFLOW_HOME": str(self.state / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__REINDEX__STAGING_URL": str(self.state / "staging"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-X", self._mark, "-m", "airflow", *arguments]
        # In a group of its own: Ctrl-C reaches this process alone, which then ends Airflow and stops the servers.
        with (
            self._log.open("a", encoding="utf-8") as log,
            subprocess.Popen(  # noqa: S603
                command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", process_group=0,
            ) as process,
        ):  # fmt: skip
            try:
                self._follow(process, log)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode

    def _follow(self, process: subprocess.Popen[str], log: Any) -> None:
        """Copy the output to the log, and say what a reader wants to know: tasks, and the product's own lines."""
        task, state, started = "", "", time.monotonic()
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            found = _LINE.match(line)
            if found is None:
                continue
            if changed := _STATE.search(line):
                state = changed[1]
            if step := _TASK.match(found["text"]):
                if step["what"] == "starting":
                    task = step["task"] + (f"[{step['index']}]" if step["index"] != "-1" else "")
                    started = time.monotonic()
                    self.say(f"{task:<11} starts")
                else:
                    spent = time.monotonic() - started
                    self.say(f"{task:<11} {state} after {spent:.1f} s", "" if state == "success" else "red")
            elif "airflow_reindex" in found["logger"]:
                style = {"warning": "yellow", "error": "red"}.get(found["level"], "")
                self.say(f"{task:<11} " + found["text"], style)

    @property
    def _log(self) -> Path:
        return self.state / "demo" / "airflow.log"

    @property
    def _mark(self) -> str:
        """An argument, without a meaning to Python, by which the demonstration's Airflow is recognised."""
        return f"demo={self.state}"

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8").splitlines()[-40:]
        return "\n".join([f"the end of {self._log}:", *lines])

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
            self._show_phases(report)
        errors = Table("table", "worker", "chunk", "message", title="error map", title_justify="left")
        for failure in report["failed_items"]:
            errors.add_row(*(escape(str(failure[name])) for name in ("table", "worker", "chunk", "message")))
        self.console.print(errors if bad else "error map: empty, no chunk failed")
        self.console.print()

    def _show_phases(self, report: Mapping[str, Any]) -> None:
        table = Table("phase")
        for name in ("tasks", "rows", "seconds", "rows/s"):
            table.add_column(name, justify="right")
        for phase in report["phases"]:
            rate = f"{phase['rows'] / phase['seconds']:,.0f}" if phase["seconds"] else ""
            table.add_row(phase["name"], f"{phase['tasks']}", f"{phase['rows']:,}", f"{phase['seconds']:.2f}", rate)
        self.console.print(table)

    def _show_index(self, spec: CatalogSpec) -> None:
        """The table's definition and size, and look-ups as Qserv makes them."""
        table = f"{quote(INDEX_DATABASE)}.{quote(_index(spec))}"
        keys, chunks, sub_chunks = truth(spec).index_rows()
        some = np.linspace(0, keys.size - 1, 5).astype(int)[1:4]
        expected = {int(keys[i]): (int(chunks[i]), int(sub_chunks[i])) for i in some}
        absent = next(key for key in range(1, keys.size + 2) if keys[np.searchsorted(keys, key)] != key)
        select = f"SELECT {quote(spec.key_column)}, chunkId, subChunkId FROM {table} WHERE {quote(spec.key_column)} "
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
        cursor.execute(f"SELECT {columns} FROM {quote(INDEX_DATABASE)}.{quote(_index(spec))} ORDER BY 1, 2, 3")
        while rows := cursor.fetchmany(50_000):
            blocks.append(np.array(rows, dtype=np.int64))
    keys, chunks, sub_chunks = np.concatenate(blocks).T
    return keys, chunks, sub_chunks
