"""The staged files of runs that nobody came back to go; everything else stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.hooks.staging_sweep import remove_expired_folders
from tests.support.staged import DAG, RUN, age, keep, stage

DAYS = 3
#: A name as Airflow makes it.
PRESENT = "scheduled__2026-02-01T00:00:00+00:00"


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty staging folder of a deployment that keeps files for DAYS days."""
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_RETENTION_DAYS", str(DAYS))
    return tmp_path


def sweep() -> None:
    """The sweep of the present run."""
    remove_expired_folders(keep=run_folder(DAG, PRESENT))


@pytest.mark.parametrize(("days", "stays"), [(DAYS + 0.1, False), (DAYS - 0.1, True)])
def test_old_folder_goes_and_younger_stays(days: float, stays: bool) -> None:
    run = stage(days)
    sweep()
    assert run.exists() is (run / "runs" / "0.npy").exists() is stays
    assert run.parent.is_dir()


def test_old_folders_of_all_dags_go() -> None:
    old = [stage(DAYS + 1, dag=dag) for dag in (DAG, "nightly %.sky", "..")]
    sweep()
    assert [folder for folder in old if folder.exists()] == []


def test_old_kept_runs_go() -> None:
    old, young = keep(DAYS + 1, "sky__Object"), keep(DAYS - 1, "sky__Source")
    sweep()
    assert not old.exists()
    assert [path.name for path in young.iterdir()] == ["0.npy"]


def test_newest_file_counts() -> None:
    run = stage(DAYS + 1)
    (run / "runs" / "1.npy").write_bytes(b"rows")
    sweep()
    assert sorted(path.name for path in run.rglob("*.*")) == ["0.npy", "1.npy", "plan--1.json"]


def test_report_of_a_finished_run_goes() -> None:
    run = stage(0)
    shutil.rmtree(run / "tasks")
    (run / "report.json").write_text('{"kind": "build_director_index", "error_ext": {}}')
    age(run, DAYS + 1)
    sweep()
    assert not run.exists()


@pytest.mark.parametrize("content", [b"rows", b'{"kind": "of another program"}', b"\xff"])
def test_folder_of_another_program_stays(staging: Path, content: bytes) -> None:
    foreign = staging / "photos" / "2019"
    foreign.mkdir(parents=True)
    (foreign / "report.json").write_bytes(content)
    age(foreign, 1000)
    sweep()
    assert (foreign / "report.json").read_bytes() == content


def test_folder_of_the_present_run_stays() -> None:
    present, other = stage(DAYS + 1, run=PRESENT), stage(DAYS + 1)
    sweep()
    assert (present / "runs" / "0.npy").is_file()
    assert not other.exists()


def test_empty_folder_stays(staging: Path) -> None:
    empty = staging / DAG / RUN
    empty.mkdir(parents=True)
    age(staging, DAYS + 1)
    sweep()
    assert empty.is_dir()


def test_staging_folder_that_is_not_there_is_fine(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(staging / "nowhere"))
    sweep()
    assert list(staging.iterdir()) == []


def test_retention_of_no_days_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    old = stage(1000)
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_RETENTION_DAYS", "0")
    with pytest.raises(RequestError, match="staging_retention_days must be a whole number from 1"):
        sweep()
    assert old.is_dir()
