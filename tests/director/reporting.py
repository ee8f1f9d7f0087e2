"""Reports of builds, made from records and task states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_reindex.core.failures import DETAIL_LIMIT
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Report, Status
from airflow_reindex.core.run_outcome import task_states
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.report import STEPS, make_report
from tests.support.samples import plan_in, record, stage_in


def states_of(**changes: str) -> dict[str, dict[int, str]]:
    """The states of a run that went well, but for some tasks, such as ``extract_1="failed"``."""
    well = {"plan": "success", "extract_0": "success", "extract_1": "success", "split": "success"}
    return task_states({**well, "load_0": "success", "publish": "success", **changes}, STEPS)


def report_on(folder: Folder, states: Mapping[str, Mapping[int, str]] | None = None) -> Report:
    """The report, and what must hold of each one."""
    report, failures = make_report(folder, "run", states or states_of(), "lsst.Object", "qservMeta.lsst__Object")
    assert report.count + report.failed == report.total
    assert len({failure.chunk for failure in failures}) == report.failed
    assert list(report.failed_items) == failures[:QUOTED_FAILURES]
    assert len(report.detail) <= DETAIL_LIMIT
    assert (report.detail == "") == (report.status is Status.DONE)
    assert (report.id, report.source, report.dest) == ("run", "lsst.Object", "qservMeta.lsst__Object")
    return report


def failure(chunk: int, message: str = "broken", worker: str = "w1") -> Failure:
    return Failure(table="Object", worker=worker, chunk=chunk, message=message)


def done(folder: Folder, **changes: Any) -> None:
    """A build that is done, but for the changes of its publish task's record."""
    plan_in(folder)
    stage_in(folder, 1, 2, 3)
    record(folder, "publish", **changes)
