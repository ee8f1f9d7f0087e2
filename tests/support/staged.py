"""Files that runs have left in the staging folder some days ago."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow_reindex.core.task_records import recorded
from airflow_reindex.hooks.staging import kept_root, run_folder

DAG = "build_director_index"
#: A name as Airflow makes it.
RUN = "manual__2026-01-01T00:00:00+00:00"


def stage(days_ago: float, *, dag: str = DAG, run: str = RUN, name: str = "runs/0.npy") -> Path:
    """Write a file of a run and the record of its plan, so many days ago; its run's folder."""
    folder = run_folder(dag, run)
    with recorded(folder, "plan"):
        folder.write(name, b"rows")
    age(Path(folder.root), days_ago)
    return Path(folder.root)


def keep(days_ago: float, index: str) -> Path:
    """Keep a sorted run of an index for its next build, so many days ago; the folder of its runs."""
    folder = kept_root().child("qserv_default", index)
    folder.write("runs/0.npy", b"rows")
    age(Path(folder.root), days_ago)
    return Path(folder.root) / "runs"


def age(folder: Path, days: float) -> None:
    """Make all files of a folder look so many days old."""
    at = time.time() - 86_400 * days
    for path in folder.rglob("*"):
        os.utime(path, (at, at))
