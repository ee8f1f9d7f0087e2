"""Run cache: a run viewed by several people is read once for all of them, not at each request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import CANCELED, REPORT
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.monitoring.failures import Failures, read_failures
from airflow_reindex.monitoring.overview import fresh_report, overview
from airflow_reindex.monitoring.run_info import RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot, SnapshotReader

#: Seconds for which cached data is served.
GOOD_SECONDS = 1.5
#: Most runs kept in memory.
MOST_RUNS = 16


@dataclass
class CachedRun:
    """
    Cached data of a run.

    :param seen: when it was read, by the monotonic clock.
    :param state: Airflow's state at that time.
    :param stamps: of the files in its folder.
    :param failures: read on first request.
    """

    reader: SnapshotReader
    seen: float = 0.0
    state: str = ""
    stamps: object = None
    snapshot: RunSnapshot | None = None
    failures: Failures | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Folder:
        """The run's folder."""
        return self.reader.folder


class RunCache:
    """The most recently viewed runs."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, str], CachedRun] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, info: RunInfo) -> tuple[CachedRun, RunSnapshot]:
        """Return a run's cache entry and the contents of its folder, reread when outdated."""
        key = info.dag_id, info.run_id
        with self._lock:
            cached = self._runs.setdefault(key, CachedRun(SnapshotReader(run_folder(*key))))
            self._runs.move_to_end(key)
            while len(self._runs) > MOST_RUNS:
                self._runs.popitem(last=False)
        with cached.lock:
            state = f"{info.state} {info.started_at}"
            if cached.state != state or time.monotonic() - cached.seen > GOOD_SECONDS:
                self._refresh(cached, info, state)
            assert cached.snapshot is not None  # noqa: S101 - for the type checker
            return cached, cached.snapshot

    def _refresh(self, cached: CachedRun, info: RunInfo, state: str) -> None:
        # Once a run has ended, each change in its folder shows in the stamps of the files directly in it.
        stamps = None if info.live else cached.folder.stamps()
        if stamps is None or cached.snapshot is None or (cached.state, cached.stamps) != (state, stamps):
            cached.snapshot, cached.failures = cached.reader.read(info), None
        cached.seen, cached.state, cached.stamps = time.monotonic(), state, stamps

    def forget(self, info: RunInfo) -> None:
        """Read the run anew at the next request."""
        with self._lock:
            self._runs.pop((info.dag_id, info.run_id), None)

    def listed(self, info: RunInfo) -> dict[str, Any]:
        """
        Return a run's overview for a list, which shows no phases: for an ended run the report is enough.

        :returns: as :func:`~airflow_reindex.monitoring.overview.overview`, perhaps without the phases' figures.
        """
        if not info.live:
            folder = run_folder(info.dag_id, info.run_id)
            said = RunSnapshot(plan=None, report=folder.read_json(REPORT), canceled=folder.read_json(CANCELED))
            report = fresh_report(said, info)
            if report is not None and report["source"] and report["total"]:
                return overview(said, info)
        return overview(self.at(info)[1], info)

    def failures(self, info: RunInfo) -> Failures:
        """Return what has failed in a run."""
        cached, snapshot = self.at(info)
        with cached.lock:
            if cached.failures is None:
                cached.failures = read_failures(cached.folder, snapshot, info)
            return cached.failures


#: The process's only ones: whoever asks for a run, through a page or a contract, sees the same look.
looks = RunCache()
