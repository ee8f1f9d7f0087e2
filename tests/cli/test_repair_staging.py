"""`airflow-reindex repair` and old staged files: what it would remove, and what it has removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_reindex.cli.__main__ import main
from airflow_reindex.core.staging import Folder
from tests.support.staged import keep, stage

DAYS = 3


@pytest.fixture(autouse=True)
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """An old run's folder and old kept runs, beside younger ones, in a deployment without connections."""
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_RETENTION_DAYS", str(DAYS))
    stage(DAYS - 1, run="young")
    keep(DAYS - 1, "sky__Source")
    return [stage(DAYS + 1), keep(DAYS + 1, "sky__Object")]


def test_old_files_are_listed_and_removed_with_yes(old: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = [Folder.at(str(path)).url for path in old]
    assert main(["repair", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"would_remove": names}
    assert all(path.is_dir() for path in old)
    assert main(["repair", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": names}
    assert not any(path.exists() for path in old)
    assert main(["repair", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": []}


def test_as_text(old: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = [Folder.at(str(path)).url for path in old]
    assert main(["repair"]) == 1
    assert capsys.readouterr().out.splitlines() == [f"would remove {name}" for name in names]
    assert main(["repair", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"removed {name}" for name in names]
    assert main(["repair", "--yes"]) == 0
    assert capsys.readouterr().out == "there is nothing to remove\n"


def test_what_was_removed_before_an_error_is_named(
    old: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove = Folder.remove

    def fail_at_kept_runs(folder: Folder, name: str = "") -> None:
        if "kept runs" in folder.root:
            raise PermissionError("not yours")
        remove(folder, name)

    monkeypatch.setattr(Folder, "remove", fail_at_kept_runs)
    with pytest.raises(PermissionError):
        main(["repair", "--yes"])
    assert capsys.readouterr().out == f"removed {Folder.at(str(old[0])).url}\n"
