"""The last task of a DAG: what it writes, announces and drops, and when it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_reindex.core.report import Report, Status
from airflow_reindex.core.run_outcome import States
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT
from airflow_reindex.operators import metrics
from airflow_reindex.operators.aggregation import AggregationOperator
from tests.support.meter import metered

STAGED = "rows.json"


class Aggregate(AggregationOperator):
    """The aggregation of a job that copies nine rows."""

    STEPS = ("plan", "copy")
    UNIT = "rows"
    OUTPUT = (metrics.ROWS, "rows")
    STAGED = STAGED

    def __init__(self, *, at: Folder, status: Status, **kwargs: Any) -> None:
        super().__init__(task_id="aggregate", **kwargs)
        self.at, self.status, self.done = at, status, list[str]()

    def folder(self, context: Any) -> Folder:
        return self.at

    def account(self, context: Any, folder: Folder, states: Mapping[str, States]) -> tuple[Report, Iterable[str]]:
        self.done.append("account")
        counts: dict[str, Any] = {"total": 9, "count": 7, "failed": 2, "rows": 7}
        report = Report(
            id="r", kind="copy", status=self.status, detail="two are missing", source="a", dest="b", started_at=None,
            updated_at="now", children={task: {"success": len(found)} for task, found in states.items()}, **counts,
        )  # fmt: skip
        return report, ["access", "access"]

    def announce(self, context: Any, report: Mapping[str, Any]) -> None:
        assert self.at.read_json(REPORT)["rows"] == report["rows"], "a report that is not written proves nothing"
        self.done.append("announce")

    def tidy(self, context: Any, folder: Folder) -> None:
        self.done.append("tidy")
        folder.remove(STAGED)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder.at(str(tmp_path))
    folder.write_json(STAGED, [])
    return folder


def execute(task: Aggregate, copy: str = "success") -> dict[str, Any]:
    """Execute it while Airflow gives the task `copy` a state; what it pushes goes to its list, too."""
    states = {"r": {"plan": "success", "copy_0": copy, "foreign": "failed"}}
    ti = SimpleNamespace(
        get_task_states=lambda **_: states, xcom_push=lambda key, value: task.done.append(f"{key} {value['status']}")
    )
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(dag_id="d", run_id="r")}
    task.done.clear()
    return task.execute(context)


def test_a_run_that_is_done_is_tidied_then_announced(folder: Folder) -> None:
    task = Aggregate(at=folder, status=Status.DONE)
    with metered() as meter:
        value = execute(task)
    assert value == folder.read_json(REPORT)
    assert value["children"] == {"plan": {"success": 1}, "copy": {"success": 1}}
    assert task.done == ["account", "tidy", "announce"]
    tags = {"job": "copy", "dag_id": "d"}
    assert meter.points("airflow.reindex.rows", **tags) == {(): 7}
    assert meter.points("airflow.reindex.failures", "kind", **tags) == {("access",): 2}


def test_a_run_that_is_not_done_fails_with_its_report_in_xcom(folder: Folder) -> None:
    task = Aggregate(at=folder, status=Status.FAILED)
    with pytest.raises(AirflowFailException, match=r"^failed: two are missing$"):
        execute(task)
    assert task.done == ["account", "return_value failed"]
    assert folder.names() == [REPORT, STAGED]


def test_a_dry_run_neither_fails_nor_announces(folder: Folder) -> None:
    task = Aggregate(at=folder, status=Status.PENDING)
    assert execute(task)["status"] == "pending"
    assert task.done == ["account"]


def test_killed_after_the_report_it_announces_again_and_accounts_no_more(folder: Folder) -> None:
    task = Aggregate(at=folder, status=Status.DONE)
    first = execute(task)
    again = execute(task)
    assert task.done == ["announce"]
    assert {**again, "updated_at": ""} == {**first, "updated_at": ""}


def test_what_fails_while_it_tidies_is_counted_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Aggregate(at=folder, status=Status.DONE)
    with metered() as meter:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", mock.Mock(side_effect=OSError("no space")))
            with pytest.raises(OSError, match="no space"):
                execute(task)
        execute(task)
    assert meter.points("airflow.reindex.rows", job="copy", dag_id="d") == {(): 7}
    assert task.done == ["account", "tidy", "announce"]


def test_a_task_that_failed_since_invalidates_the_report(folder: Folder) -> None:
    task = Aggregate(at=folder, status=Status.DONE)
    execute(task)
    execute(task, "failed")
    assert task.done[0] == "account"
