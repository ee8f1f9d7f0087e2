"""The task that waits for a person's approval of a switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError, HITLTriggerEventError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_reindex.core.failures import Code, ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import recorded, task_records
from airflow_reindex.hooks import staging
from airflow_reindex.operators.base import airflow_errors, skip_dry_run
from airflow_reindex.vectors.model.plan import read_plan

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The user that `airflow dags test` names as trigger of its runs: nobody is there to answer.
_TEST_USER = "dag_test"


class ApproveOperator(ApprovalOperator):
    """Ask for approval, unless there is nothing to switch or nobody to ask; a rejection fails the run."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(fail_on_reject=True, **kwargs)

    def execute(self, context: Context) -> Any:
        """
        Ask.

        :raises AirflowSkipException: the run does not switch, or is one of `airflow dags test`.
        """
        run = context["dag_run"]
        folder = staging.run_folder(run.dag_id, run.run_id)
        skip_dry_run(folder)
        if not read_plan(folder).request.deploy_as_blue:
            raise AirflowSkipException("deploy_as_blue is off: there is nothing to approve")
        if run.triggering_user_name == _TEST_USER:
            raise AirflowSkipException("airflow dags test: nobody is asked")
        self.body = _facts(folder)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """
        Handle the answer.

        :raises AirflowFailException: the switch was rejected.
        """
        run = context["dag_run"]
        folder = staging.run_folder(run.dag_id, run.run_id)
        with airflow_errors(), recorded(folder, "approve", token=read_plan(folder).token) as record:
            who = (event.get("responded_by_user") or {}).get("name", "somebody")
            try:
                answer = super().execute_complete(context, event)
            except HITLRejectException:
                raise ReindexError(
                    f"{who} rejected the switch: readers stay on the old collection", code=Code.REJECTED
                ) from None
            except HITLTimeoutError:
                raise ReindexError(
                    "nobody approved the switch in time: readers stay on the old collection. Clear 'approve' to ask "
                    "again.",
                    code=Code.REJECTED,
                ) from None
            except HITLTriggerEventError as error:
                raise ReindexError(f"no approval could be asked for: {error}", code=Code.OTHER) from None
            record.result = {"approved_by": who}
        return answer


def _facts(folder: Folder) -> str:
    """The verification's results as Markdown."""
    found = next(record.result for record in task_records(folder) if record.task == "verify")
    lines = [f"- {found['seen']:,} items in the source, {found['failed']:,} of them failed"]
    if found.get("left_alone"):
        lines.append(f"- {found['left_alone']:,} objects that others wrote to the destination were left alone")
    if "recall_at_10" in found:
        lines.append(f"- recall@10 of the new ANN index: {found['recall_at_10']:.3f}")
    if quality := found.get("quality"):
        lines += [
            f"- {quality['queries']} queries: {quality['overlap_at_10']:.0%} of the ten nearest objects in common; "
            f"side by side in {quality['file']}",
            *(
                f"- {side} model: {quality[side]['embed_ms']} ms to embed a query, {quality[side]['search_ms']} ms to "
                "search"
                for side in ("old", "new")
            ),
        ]
    return "\n".join(lines)
