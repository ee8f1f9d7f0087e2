"""A director-index build made of its step functions, against the sandbox, as the tasks of a DAG run would make it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from airflow_reindex.core.claims import Owner
from airflow_reindex.core.memory import rows_that_fit
from airflow_reindex.core.report import Failure
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import task_records
from airflow_reindex.director import steps
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.model import records
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import read_plan
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.model.runs import manifests
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.split import SLICE_ROWS, Split
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.planning.planning import RunContext, make_plan
from airflow_reindex.director.publish.verification import Published
from sandbox.servers.cluster import Sandbox
from sandbox.servers.servers import MariaDBServer

Columns = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def sandbox_servers(sandbox: Sandbox, **changes: Any) -> Servers:
    """The sandbox as the steps see it, reached with the account that has only the README's grants."""
    servers = Servers(
        czar=lambda: sandbox.czar.connect("reindex", local_infile=True),
        workers={
            name: lambda server=server: server.connect("reindex")  # type: ignore[misc]
            for name, server in sandbox.workers.items()
        },
        staging_dir=str(sandbox.czar.infile_dir),
        server_staging_dir=str(sandbox.czar.infile_dir),
    )
    return replace(servers, **changes)


class Build:
    """
    One run of a build.

    :param staging: where runs keep their folders.
    :param database: the catalog.
    :param params: further params of the request.
    """

    #: A test may want less than any setting gives.
    slice_rows = SLICE_ROWS

    def __init__(self, sandbox: Sandbox, staging: Path, database: str, run_id: str, params: dict[str, Any]) -> None:
        self.sandbox, self.run_id = sandbox, run_id
        self.servers = sandbox_servers(sandbox)
        self.folder = Folder.at(str(staging / run_id))
        self.request = BuildRequest.parse({"database": database, "director_table": "Object", **params})
        self.states: dict[tuple[str, str], str] = {}
        self.claim_timeout, self.rows_per_task, self.memory = 300.0, 50_000, 512 << 20
        self.kept: Folder | None = None
        self.rows_in_memory = 0

    @property
    def plan_made(self) -> Plan:
        """The plan in the run's folder."""
        plan = records.read_plan(self.folder)
        return replace(plan, groups=tuple(records.read_groups(self.folder, plan)))

    def plan(self) -> Plan:
        """The task `plan`."""
        run = RunContext(
            owner=Owner("tests", "build_director_index", self.run_id, "localhost", self.folder.url),
            conn_id="qserv_default",
            state_of=lambda dag_id, run_id: self.states.get((dag_id, run_id), "running"),
            claim_timeout=self.claim_timeout,
            rows_per_task=self.rows_per_task,
            memory=self.memory,
            open_folder=Folder.at,
            kept=self.kept,
        )
        with records.recorded(self.folder, "plan") as record:
            plan, figures = make_plan(self.servers, self.request, self.folder, run)
            record.token, record.result = plan.token, {"dry_run": self.request.dry_run, **figures}
        return plan

    def extract(self, group: int) -> None:
        """One mapped task `extract`."""
        with mock.patch.object(steps, "rows_that_fit", self.rows_that_fit):
            steps.extract_group(
                self.servers, self.folder, read_plan(self.folder, self.plan_made.token), group, self.memory
            )

    def extract_all(self) -> None:
        """All tasks `extract`, in turn."""
        for group in range(len(self.plan_made.groups)):
            self.extract(group)

    def extract_in_slots(self, slots: int) -> list[BaseException]:
        """All tasks `extract`, so many at a time, as Airflow would start them; the errors."""
        failed: list[BaseException] = []
        token, groups, lock = self.plan_made.token, iter(range(len(self.plan_made.groups))), threading.Lock()

        def slot() -> None:
            while True:
                with lock:
                    number = next(groups, None)
                if number is None:
                    return
                try:
                    steps.extract_group(self.servers, self.folder, read_plan(self.folder, token), number, self.memory)
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=slot, daemon=True) for _ in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=180)
        assert not any(thread.is_alive() for thread in threads), "a task waits for good"
        return failed

    def split(self) -> Split:
        """The task `split`."""
        return steps.split_build(
            self.servers, self.folder, read_plan(self.folder), self.rows_per_task, slice_rows=self.slice_rows
        )

    def load(self, number: int) -> None:
        """One mapped task `load`."""
        split = records.read_split(self.folder)
        with mock.patch.object(steps, "rows_that_fit", self.rows_that_fit):
            steps.load_range(
                self.servers,
                self.folder,
                read_plan(self.folder, self.plan_made.token),
                split.build,
                number,
                self.memory,
            )

    def rows_that_fit(self, memory: int, bytes_per_row: int) -> int:
        """What the tasks hold in memory; a test may want less than any setting gives."""
        return self.rows_in_memory or rows_that_fit(memory, bytes_per_row)

    def load_all(self) -> None:
        """All tasks `load`, in turn."""
        for key_range in records.read_split(self.folder).ranges:
            self.load(key_range.number)

    def publish(self) -> Published:
        """The task `publish`."""
        return steps.publish_build(self.servers, self.folder, read_plan(self.folder), self.memory)

    def to_load(self) -> None:
        """Everything up to the loads."""
        self.plan()
        self.extract_all()
        self.split()

    def complete(self) -> Published:
        """All tasks after the extracts."""
        self.split()
        self.load_all()
        return self.publish()

    def run(self) -> Published:
        """The whole build."""
        self.plan()
        self.extract_all()
        return self.complete()

    def finish(self) -> None:
        """What the task `aggregate` does on the server once the report is written."""
        steps.finish_build(self.servers, self.plan_made)

    def failures(self, task: str) -> list[Failure]:
        """The chunks that the tasks of one step have recorded as failed, by chunk and worker."""
        found = [f for record in task_records(self.folder) if record.task == task for f in record.failures]
        return sorted(found, key=lambda failure: (failure.chunk, failure.worker))

    def staged_chunks(self) -> list[int]:
        """The chunks of all manifests in the run's folder, as often as they are there."""
        return sorted(chunk.chunk for manifest in manifests(self.folder) for chunk in manifest.chunks)

    def index(self) -> Columns:
        """The live index as Qserv would read it: keys, chunks and sub-chunks, by key and chunk."""
        return read_index(self.sandbox, self.request.index_table)

    def working_tables(self) -> list[str]:
        """What lies in the working database for this index."""
        return working_tables(self.sandbox, self.request.index_table)


#: The fixture `build`.
Factory = Callable[..., Build]


def read_index(sandbox: Sandbox, table: str, key: str = "objectId") -> Columns:
    """Read an index whole: keys, chunks and sub-chunks, ordered by key, chunk and sub-chunk."""
    connection = sandbox.czar.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT `{key}`, chunkId, subChunkId FROM qservMeta.`{table}` ORDER BY 1, 2, 3")
            rows = np.array(cursor.fetchall(), dtype=np.int64).reshape(-1, 3)
    finally:
        connection.close()
    return rows[:, 0], rows[:, 1], rows[:, 2]


def tables_of(sandbox: Sandbox, database: str) -> list[str]:
    """The tables of a database on the czar's server."""
    connection = sandbox.czar.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s ORDER BY 1", (database,)
            )
            return [name for (name,) in cursor.fetchall()]
    finally:
        connection.close()


def run_sql(server: MariaDBServer, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements as root, each taken literally; the rows of the last one."""
    rows: list[tuple[Any, ...]] = []
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            rows = list(cursor.fetchall())
    return rows


def waits_for_lock(sandbox: Sandbox, statement: str) -> bool:
    """Whether a statement that begins so waits for a metadata lock."""
    rows = run_sql(
        sandbox.czar,
        "SELECT INFO FROM information_schema.PROCESSLIST WHERE STATE = 'Waiting for table metadata lock'",
    )
    return any(str(text).startswith(statement) for (text,) in rows)


def working_tables(sandbox: Sandbox, index: str) -> list[str]:
    """The tables in the working database that belong to builds of an index."""
    return [name for name in tables_of(sandbox, "airflow_reindex") if mark(index) in name]


def mark(index: str) -> str:
    """What stands for an index in the names of its working tables."""
    return IndexTables("airflow_reindex", "qservMeta", index).mark


@contextlib.contextmanager
def clean_czar(sandbox: Sandbox) -> Iterator[None]:
    """For a test that sees no other's claims and leaves nothing: neither a working database nor new indexes."""
    before = set(tables_of(sandbox, "qservMeta"))
    try:
        yield
    finally:
        new = [name.replace("`", "``") for name in tables_of(sandbox, "qservMeta") if name not in before]
        drops = [f"DROP TABLE qservMeta.`{name}`" for name in new]
        run_sql(sandbox.czar, "DROP DATABASE IF EXISTS airflow_reindex", *drops)


def assert_same(found: Columns, expected: Columns) -> None:
    """Compare two indexes key by key."""
    for name, one, other in zip(("keys", "chunks", "sub-chunks"), found, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of each chunk that is read from now on."""
    reads: list[int] = []
    real = extractor.stream

    def stream(source: Any, plan: Any, chunk: int) -> Any:
        reads.append(chunk)
        return real(source, plan, chunk)

    monkeypatch.setattr(extractor, "stream", stream)
    return reads
