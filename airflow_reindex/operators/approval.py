"""The task that waits for a person's word before readers are switched over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_reindex import config
from airflow_reindex.collections.plan import read_plan
from airflow_reindex.operators.base import skip_dry_run

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Whom `airflow dags test` names as the one who triggered its runs: nobody is there to answer.
_TEST_USER = "dag_test"


class ApproveOperator(ApprovalOperator):
    """Ask for approval, unless there is nothing to switch or nobody to ask."""

    def execute(self, context: Context) -> Any:
        """
        Ask.

        :param context: the task's context.
        :raises AirflowSkipException: the run does not switch, or is one of `airflow dags test`.
        """
        run = context["dag_run"]
        folder = config.run_folder(run.dag_id, run.run_id)
        skip_dry_run(folder)
        if not read_plan(folder).request.deploy_as_blue:
            raise AirflowSkipException("deploy_as_blue is off: there is nothing to approve")
        if run.triggering_user_name == _TEST_USER:
            raise AirflowSkipException("airflow dags test: nobody is asked")
        return super().execute(context)
