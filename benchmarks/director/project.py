"""This project: a build by its own step functions, in as many processes as there are cores."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from airflow_reindex.core.claims import Owner
from airflow_reindex.core.staging import Folder
from airflow_reindex.director import steps
from airflow_reindex.director.model.limits import Limits
from airflow_reindex.director.model.records import read_plan, recorded
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.planning.planning import RunContext, make_plan
from airflow_reindex.director.planning.reuse import keep_runs
from airflow_reindex.hooks.staging import open_folder
from benchmarks.director.measure import Measured, measuring
from sandbox.servers.cluster import Sandbox

MEMORY, ROWS_PER_TASK = 512 << 20, 5_000_000
Task = tuple[str, str, str, str, str, int]


def servers_of(root: Path | str) -> Servers:
    """
    A sandbox as the steps see it, reached with the account that has only the documented grants.

    :param root: the sandbox's folder.
    """
    sandbox = Sandbox.load(Path(root))
    inbox = str(sandbox.czar.infile_dir)
    return Servers(
        czar=lambda: sandbox.czar.connect("reindex", local_infile=True),
        workers={
            name: lambda server=server: server.connect("reindex")  # type: ignore[misc]
            for name, server in sandbox.workers.items()
        },
        staging_dir=inbox,
        server_staging_dir=inbox,
        data_dir=str(sandbox.czar.data_dir),
    )


@contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    """
    A process a core, with everything imported, in this process's present environment.

    One pool a scenario: a process keeps memory that its tasks have freed, so that after a large build the peak of a
    small one could not be told.
    """
    count = os.cpu_count() or 1
    # They descend from a server that was forked long ago: what Airflow is told by the environment has changed since.
    context, environment = multiprocessing.get_context("forkserver"), (dict(os.environ),)
    with ProcessPoolExecutor(count, context, initializer=_adopt, initargs=environment) as pool:
        for _ in range(3):
            list(pool.map(_warm, range(count)))
        yield pool


class Builder:
    """
    Builds indexes of one sandbox.

    :param sandbox: the servers.
    :param pool: from :func:`processes`.
    :param staging: where runs keep their folders: a path, or the URL of an object store.
    """

    def __init__(self, sandbox: Sandbox, pool: ProcessPoolExecutor, staging: Path | str) -> None:
        self.sandbox, self.pool, self.staging = sandbox, pool, staging
        self.servers = servers_of(sandbox.root)

    def build(
        self,
        database: str,
        rows: int,
        chunks: int,
        *,
        kept: Folder | None = None,
        max_rows: int = 0,
        connections: int = 0,
    ) -> Measured:
        """
        Build an index whole: plan, extraction, loading, verification, swap.

        :param database: the catalog.
        :param rows: its rows.
        :param chunks: its chunks.
        :param kept: where runs are kept from one build to the next; ``None`` to keep none.
        :param max_rows: rows a second.
        :param connections: connections that load at a time.
        :returns: what it took.
        """
        folder = open_folder(f"{self.staging}/{uuid4().hex[:8]}")
        request = BuildRequest(
            database=database,
            director_table="Object",
            rebuild=True,
            limits=Limits(max_rows, connections),
        )
        with measuring(self.sandbox, "project", rows, chunks, alone=not max_rows) as result:
            with result.step("plan"), recorded(folder, "plan"):
                plan, _ = make_plan(self.servers, request, folder, self._context(folder, kept))
            root = str(self.sandbox.root)
            with result.step("extract"):
                groups = range(len(plan.groups))
                peaks = list(self.pool.map(_task, [(root, folder.url, "extract", plan.token, "", n) for n in groups]))
            with result.step("split"):
                split = steps.split_build(self.servers, folder, read_plan(folder), ROWS_PER_TASK)
            with result.step("load"):
                loads = [(root, folder.url, "load", plan.token, split.build, r.number) for r in split.ranges]
                peaks += self.pool.map(_task, loads)
            with result.step("verify and swap"):
                steps.publish_build(self.servers, folder, read_plan(folder), MEMORY)
                steps.finish_build(self.servers, plan)
        staged = steps.staged_runs(folder, plan)
        result.staged_bytes = sum(file.bytes for manifest in staged for file in manifest.files)
        result.task_bytes = max(peaks, default=0)
        index = self.sandbox.czar.data_dir / self.servers.index_database / f"{request.index_table}.ibd"
        result.index_bytes = index.stat().st_size
        if kept is not None:
            keep_runs(folder, staged, kept)
        folder.remove()
        return result

    def _context(self, folder: Folder, kept: Folder | None) -> RunContext:
        return RunContext(
            owner=Owner("benchmark", "build_director_index", folder.url, "localhost", folder.url),
            conn_id="qserv_default",
            state_of=lambda *_: "running",
            claim_timeout=300.0,
            rows_per_task=ROWS_PER_TASK,
            memory=MEMORY,
            open_folder=open_folder,
            kept=kept,
        )


def _adopt(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _warm(_: int) -> None:
    """Load what tasks load."""
    import airflow_reindex.operators.director  # noqa: F401

    # Airflow's import sets up logs that show each task's progress.
    logging.disable(logging.INFO)


def _task(task: Task) -> int:
    """One mapped task; returns the peak memory of its process, in bytes."""
    root, url, step, token, build, number = task
    _reset_peak()
    folder = open_folder(url)
    assert read_plan(folder).token == token
    if step == "extract":
        steps.extract_group(servers_of(root), folder, read_plan(folder, token), number, MEMORY)
    else:
        steps.load_range(servers_of(root), folder, read_plan(folder, token), build, number, MEMORY)
    return _peak()


def _reset_peak() -> None:
    """
    Forget the peak of the tasks before; Linux only.

    What the allocator keeps of them still counts: Airflow gives each task a process of its own, which takes less.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The peak of this process's memory, in bytes."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
