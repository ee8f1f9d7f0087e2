"""The answers to a request for approval, and what the run's report says of each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError, HITLTriggerEventError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_reindex.core.failures import Code
from airflow_reindex.core.task_records import task_records
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.operators import approval
from airflow_reindex.operators.approval import ApproveOperator


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (HITLRejectException("Reject"), "ada rejected the switch", Code.REJECTED),
        (HITLTimeoutError({"error_type": "timeout"}), "nobody approved the switch in time", Code.REJECTED),
        (HITLTriggerEventError({"error": "gone"}), "no approval could be asked for", Code.OTHER),
    ],
)
def test_whatever_is_no_approval_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, code: Code
) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path))
    monkeypatch.setattr(approval, "read_plan", lambda _: SimpleNamespace(token="t"))
    monkeypatch.setattr(ApprovalOperator, "execute_complete", mock.Mock(side_effect=error))
    task = ApproveOperator(task_id="approve", subject="Switch?")
    context: Any = {"dag_run": SimpleNamespace(dag_id="d", run_id="r")}
    with pytest.raises(AirflowFailException, match=said):
        task.execute_complete(context, {"responded_by_user": {"id": "1", "name": "ada"}})
    (record,) = task_records(run_folder("d", "r"))
    assert (record.task, record.code) == ("approve", code)
    assert record.error.startswith(said)
    assert "Traceback" not in record.error
