"""Progress snapshots: seldom, of the task at work, no reason for it to fail; JSON files that are read once."""

from __future__ import annotations

import time

import pytest

from airflow_reindex.core.heartbeat import HEARTBEAT_SECONDS, LIVE
from airflow_reindex.core.progress import Progress
from airflow_reindex.core.reader import JsonFiles
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import recorded


def test_beats_come_no_more_often_than_they_may(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    written: list[int] = []
    write = folder.write_json

    def watched(name: str, value: object) -> None:
        if name.startswith(LIVE):
            written.append(value["done"])  # type: ignore[index]
        write(name, value)

    monkeypatch.setattr(folder, "write_json", watched)
    with recorded(folder, "load", 3, "token"):
        progress = Progress(lambda _: None, "load", 1000)
        for _ in range(100):
            clock[0] += HEARTBEAT_SECONDS / 10
            progress.add(10)
    assert written == [100 * n for n in range(1, 11)]
    beat = folder.read_json(f"{LIVE}/load-3.json")
    assert (beat["task"], beat["index"], beat["token"], beat["total"]) == ("load", 3, "token", 1000)
    assert beat["recent"] == pytest.approx(100 / HEARTBEAT_SECONDS)


def test_a_new_try_begins_without_the_old_ones_beat(folder: Folder) -> None:
    folder.write_json(f"{LIVE}/load-3.json", {})
    with recorded(folder, "load", 3):
        assert folder.read_json(f"{LIVE}/load-3.json") is None


def test_work_goes_on_when_its_beat_cannot_be_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_reindex.core.heartbeat.HEARTBEAT_SECONDS", 0.0)
    with recorded(folder, "load"):
        monkeypatch.setattr(folder, "write_json", lambda *_: 1 / 0)
        Progress(lambda _: None, "load", 10).add(5)
        monkeypatch.undo()


def test_outside_of_a_task_nothing_is_written(folder: Folder) -> None:
    Progress(lambda _: None, "load", 10).add(5)
    assert folder.names() == []


def test_files_are_parsed_once_for_each_version(folder: Folder) -> None:
    parsed: list[str] = []

    def parse(name: str, value: int) -> int:
        parsed.append(name)
        return value

    files = JsonFiles(folder, "tasks", parse)
    assert files.read() == {}
    folder.write_json("tasks/a.json", 1)
    folder.write_json("tasks/b.json", 2)
    folder.write("tasks/c.txt", b"no JSON")
    assert files.read() == {"a.json": 1, "b.json": 2}
    folder.write_json("tasks/b.json", 3)
    folder.remove("tasks/a.json")
    assert files.read() == {"b.json": 3}
    assert files.read() == {"b.json": 3}
    assert parsed == ["a.json", "b.json", "b.json"]
