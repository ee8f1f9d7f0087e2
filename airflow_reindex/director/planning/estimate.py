"""
Estimate of a build: tasks, memory, space and hours, from measured constants and the planner's own rules.

``python -m airflow_reindex.director.planning.estimate --rows 20e9 --chunks 146332 --workers 40 --czar-cores 16``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from airflow_reindex.core.memory import BASE_BYTES, rows_that_fit
from airflow_reindex.core.progress import duration
from airflow_reindex.core.windows import MAX_MAPPED_TASKS, task_count
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.load import merge
from airflow_reindex.director.model.costs import FAST, LOADING_CONNECTIONS, REDO, SLOW, STAGED, TEXT, Costs
from airflow_reindex.director.model.plan import CHUNK_OVERHEAD_ROWS, row_group_rows
from airflow_reindex.director.model.runs import ROW_GROUPS_IN_FILE
from airflow_reindex.director.model.split import LEAST_RANGES, SLICE_ROWS
from airflow_reindex.director.mysql.disk_space import INDEX_BYTES
from airflow_reindex.director.publish.verification import VERIFY_CONNECTIONS


@dataclass(frozen=True, kw_only=True)
class Build:
    """
    What is to be built, and on what.

    :param workers: the number of worker servers.
    :param czar_cores: cores of the czar's server.
    :param airflow_slots: tasks that run at a time, each on a core.
    :param worker_connections: connections to one worker at a time.
    :param load_connections: load tasks at a time.
    :param memory: bytes that a task may take.
    """

    rows: int
    chunks: int
    workers: int
    czar_cores: int
    airflow_slots: int = 16
    worker_connections: int = 4
    load_connections: int = 4
    rows_per_task: int = 5_000_000
    memory: int = 512 << 20
    costs: Costs = FAST


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a build takes: counts, bytes, and seconds of each step. Networks and disks are assumed to keep up."""

    extract_tasks: int
    load_tasks: int
    slices: int
    runs: int
    staged_files: int
    row_group_rows: int
    task_bytes: int
    rows_of_a_run: int
    rows_of_a_window: int
    staged_bytes: int
    index_bytes: int
    redo_bytes: int
    text_bytes: int
    xcom_bytes: int
    extract_seconds: float
    load_seconds: float
    verify_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds in total, besides Airflow's own."""
        return self.extract_seconds + self.load_seconds + self.verify_seconds


def estimate(build: Build) -> Estimate:
    costs, rows = build.costs, build.rows
    weight = rows + build.chunks * CHUNK_OVERHEAD_ROWS
    # As in the planner: each worker's share rounds up.
    per_task = max(build.rows_per_task, -(-weight // max(1, MAX_MAPPED_TASKS - build.workers)))
    extract_tasks = build.workers * task_count(weight / build.workers, per_task)
    slices = -(-rows // SLICE_ROWS)
    load_tasks = task_count(rows, build.rows_per_task, least=min(LEAST_RANGES, slices))
    run_rows = min(rows_that_fit(build.memory, run_buffer.BYTES_PER_ROW), -(-rows // extract_tasks))
    window_rows = rows_that_fit(build.memory, merge.BYTES_PER_ROW)
    group_rows = row_group_rows(rows, run_rows, window_rows)
    rows_of_a_task = -(-rows // extract_tasks)
    runs = extract_tasks * -(-rows_of_a_task // run_rows)
    readers = min(build.airflow_slots, build.workers * build.worker_connections)
    loaders = min(build.airflow_slots, build.load_connections, LOADING_CONNECTIONS, build.czar_cores)
    load = costs.load if loaders == 1 else costs.load_many
    return Estimate(
        extract_tasks=extract_tasks,
        load_tasks=load_tasks,
        slices=slices,
        runs=runs,
        staged_files=runs * -(-run_rows // (ROW_GROUPS_IN_FILE * group_rows)),
        row_group_rows=group_rows,
        task_bytes=min(
            build.memory, BASE_BYTES + max(run_rows * run_buffer.BYTES_PER_ROW, window_rows * merge.BYTES_PER_ROW)
        ),
        rows_of_a_run=run_rows,
        rows_of_a_window=window_rows,
        staged_bytes=int(rows * STAGED),
        index_bytes=rows * INDEX_BYTES,
        redo_bytes=int(rows * REDO),
        text_bytes=int(rows * TEXT),
        xcom_bytes=120 * max(extract_tasks, load_tasks),
        # A task reads while another one on the same machine decodes: a core each.
        extract_seconds=1e-6 * (rows * (costs.read_server + costs.read_client) + build.chunks * costs.chunk) / readers,
        load_seconds=1e-6 * rows * max(load, costs.merge) / loaders,
        verify_seconds=1e-6 * rows * costs.verify / min(VERIFY_CONNECTIONS, build.czar_cores),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print an estimate for the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_reindex.director.planning.estimate",
        description="Tasks, memory, room and hours of a build, from measured constants.",
    )
    parser.add_argument("--rows", type=number, required=True, help="rows of the index, such as 20e9")
    parser.add_argument("--chunks", type=number, required=True, help="chunks, such as 146332")
    parser.add_argument("--workers", type=number, default=1, help="worker servers (default: 1)")
    parser.add_argument("--czar-cores", type=number, default=2, help="cores of the czar's server (default: 2)")
    parser.add_argument("--airflow-slots", type=number, default=16, help="tasks at a time (default: 16)")
    parser.add_argument("--worker-connections", type=number, default=4, help="connections a worker (default: 4)")
    parser.add_argument("--load-connections", type=number, default=4, help="load tasks at a time (default: 4)")
    parser.add_argument("--rows-per-task", type=number, default=5_000_000, help="the setting (default: 5,000,000)")
    parser.add_argument("--memory", type=number, default=512, help="memory_per_task in MB (default: 512)")
    parser.add_argument("--slow", action="store_true", help=f"for {SLOW.machine}; else for {FAST.machine}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = vars(parser.parse_args(arguments))
    costs, as_json = (SLOW if given.pop("slow") else FAST), given.pop("json")
    given["memory"] <<= 20
    build = Build(**given, costs=costs)
    found = estimate(build)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(found), "seconds": found.seconds}, indent=1) + "\n")
    else:
        show(build, found, Console(highlight=False))


def number(text: str) -> int:
    """Read a whole number, also one such as ``20e9``."""
    return int(float(text))


def gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def show(build: Build, found: Estimate, console: Console) -> None:
    """Print an estimate for people."""
    table = Table(title=f"{build.rows:,} rows in {build.chunks:,} chunks on {build.workers} workers", show_header=False)
    for name, value in (
        ("mapped extract tasks", f"{found.extract_tasks:,}"),
        ("mapped load tasks (key ranges)", f"{found.load_tasks:,}"),
        ("slices, a transaction each", f"{found.slices:,}"),
        ("sorted runs, in files", f"{found.runs:,}, in {found.staged_files:,}"),
        ("rows of a run, a window, a row group",
         f"{found.rows_of_a_run:,}, {found.rows_of_a_window:,}, {found.row_group_rows:,}"),
        ("memory of a task", f"{found.task_bytes / 1e6:,.0f} MB"),
        ("XCom of the task that maps", f"{found.xcom_bytes / 1e3:,.0f} kB"),
        ("staged", gigabytes(found.staged_bytes)),
        ("index", gigabytes(found.index_bytes)),
        ("redo", gigabytes(found.redo_bytes)),
        ("text that LOAD DATA reads", gigabytes(found.text_bytes)),
        (f"extraction, {min(build.airflow_slots, build.workers * build.worker_connections)} connections",
         duration(found.extract_seconds)),
        (f"loading, {min(build.load_connections, LOADING_CONNECTIONS, build.czar_cores)} connections",
         duration(found.load_seconds)),
        ("verification", duration(found.verify_seconds)),
        ("in all, besides Airflow's own time", duration(found.seconds)),
    ):  # fmt: skip
        table.add_row(name, value)
    table.caption = f"on {build.costs.machine}; networks and disks that keep up"
    console.print(table)


if __name__ == "__main__":
    main()
