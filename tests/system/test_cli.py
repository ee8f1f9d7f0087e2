"""`airflow dags test` as a user runs it: its exit code, and what a SIGKILL leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import task_records
from airflow_reindex.hooks.staging import staging_root
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, read_index, working_tables
from tests.system.conftest import Run

Trigger = Callable[..., Run]


def start(conf: str) -> subprocess.Popen[str]:
    """Start `airflow dags test build_director_index` in a process group of its own."""
    command = [str(Path(sys.executable).with_name("airflow")), "dags", "test", "build_director_index", "-c", conf]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def new_run(before: set[str]) -> Iterator[Folder]:
    """The folder of the run that has just appeared, polled until the caller has seen enough."""
    root = staging_root().child("build_director_index")
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        for name in set(root.names()) - before:
            yield Folder.at(f"{root.root}/{name}")
        time.sleep(0.02)
    raise AssertionError("the run never came that far")


def runs() -> set[str]:
    return set(staging_root().child("build_director_index").names())


@pytest.mark.usefixtures("airflow", "connections")
def test_exit_code_of_a_failed_build(catalog: CatalogFactory) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, missing=1, seed=9))
    process = start(f'{{"database": "{made.spec.database}", "director_table": "Object", "force_takeover": 1}}')
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output[-3000:]
    assert "status failed: 10 of 11 chunks" in output


def test_killed_run_is_taken_over(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=40_000, chunks=40, seed=12))
    index = f"{made.spec.database}__Object"
    before = runs()
    process = start(f'{{"database": "{made.spec.database}", "director_table": "Object"}}')
    for folder in new_run(before):
        if any(record.task == "extract" and record.ended_at for record in task_records(folder)):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (dead,) = runs() - before
    assert any(name.startswith("claim_") for name in working_tables(sandbox, index))

    refused = trigger(database=made.spec.database, director_table="Object")
    assert refused.report["status"] == "refused", "Airflow calls the dead run running, and it was alive just now"
    assert dead.replace("%3A", ":").replace("%2B", "+") in refused.report["detail"]

    monkeypatch.setenv("AIRFLOW__REINDEX__CLAIM_TIMEOUT", "1")
    time.sleep(1.2)
    second = trigger(database=made.spec.database, director_table="Object")
    assert second.report["status"] == "done"
    assert second.report["notes"]["adopted_chunks"] > 0
    assert_same(read_index(sandbox, index), truth(made.spec).index_rows())
    assert working_tables(sandbox, index) == []
