"""Runs as several people look at them at the same time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from airflow_reindex.core.task_records import CANCELED, now
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.monitoring.run_info import RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot, SnapshotReader
from airflow_reindex.plugin import pages
from airflow_reindex.plugin.contracts import qserv, reindex_tasks
from airflow_reindex.plugin.contracts.qserv_protocol import read_index_call


def test_pages_and_contracts_read_a_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path))
    info = RunInfo(dag_id="reindex_collection", run_id="shared", state="failed", tasks={"plan": {-1: "failed"}})
    monkeypatch.setattr("airflow_reindex.metadata.find_run", lambda *_: info)
    monkeypatch.setattr("airflow_reindex.metadata.state_of", lambda *_: info.state)
    read: list[str] = []
    read_run = SnapshotReader.read

    def counted(reader: SnapshotReader, found: RunInfo) -> RunSnapshot:
        read.append(found.run_id)
        return read_run(reader, found)

    monkeypatch.setattr(SnapshotReader, "read", counted)
    monkeypatch.setattr("airflow_reindex.plugin.run_cache.GOOD_SECONDS", 3600.0)
    assert pages.ranges(info)["total"] == 0
    assert reindex_tasks.info("shared", None, 0).status == "failed"  # type: ignore[arg-type]
    call = read_index_call({"database": "d", "director_table": "t", "version": 55}, None, 0)
    answer = qserv.outcome(call, "shared")
    assert answer is not None
    assert answer["success"] == 0
    assert read == ["shared"]


def test_a_canceled_run_is_not_answered_from_a_look_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path))
    monkeypatch.setattr("airflow_reindex.plugin.run_cache.GOOD_SECONDS", 3600.0)
    info = RunInfo(dag_id="reindex_collection", run_id="gone", state="running", tasks={"plan": {-1: "running"}})
    monkeypatch.setattr("airflow_reindex.metadata.find_run", lambda *_: info)

    def cancel(_: RunInfo, user: str) -> None:
        nonlocal info
        info = replace(info, state="failed", tasks={"plan": {-1: "failed"}})
        assert pages.ranges(info)["total"] == 0, "a page looks before it is noted who canceled"
        run_folder(info.dag_id, info.run_id).write_json(CANCELED, {"at": now(), "by": user})

    monkeypatch.setattr("airflow_reindex.metadata.cancel", cancel)
    user = mock.Mock(**{"get_name.return_value": "ada"})
    assert reindex_tasks.cancel("gone", user).status == "canceled"
