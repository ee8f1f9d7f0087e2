"""Runs as several people look at them at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

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
