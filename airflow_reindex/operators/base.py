"""What the operators of all DAGs share: the run's folder and owner, and which errors are retried."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_reindex import config
from airflow_reindex.core.claims import Owner
from airflow_reindex.core.failures import ReindexError, TransientError, truncate_detail
from airflow_reindex.core.report import Report, Status
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import TASKS
from airflow_reindex.hooks import staging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context


class ReindexOperator(BaseOperator):
    """A task of a run that keeps its files in a staging folder."""

    ui_color = "#dfeaf5"

    def folder(self, context: Context) -> Folder:
        """Return the run's staging folder."""
        run = context["dag_run"]
        return staging.run_folder(run.dag_id, run.run_id)

    def claimant(self, context: Context) -> Owner:
        """Return the owner that a claim of this run names."""
        run = context["dag_run"]
        folder = self.folder(context)
        return Owner(config.deployment(), run.dag_id, run.run_id, socket.gethostname(), folder.url)

    def state_of(self, context: Context) -> Callable[[str, str], str | None]:
        """Return a lookup of other runs' states by DAG id and run id."""
        ti = context["ti"]

        def look_up(dag_id: str, run_id: str) -> str | None:
            # A deleted run has no state: its claim is then judged by its heartbeats alone.
            state: str | None = (
                ti.get_dagrun_state(dag_id, run_id) if ti.get_dr_count(dag_id, run_ids=[run_id]) else None
            )
            return state

        return look_up

    def states_now(self, context: Context) -> Mapping[str, str | None]:
        """Return the states of this run's tasks, by ``task`` or ``task_<map index>``."""
        ti, run = context["ti"], context["dag_run"]
        found: Mapping[str, str | None] = ti.get_task_states(dag_id=run.dag_id, run_ids=[run.run_id]).get(
            run.run_id, {}
        )
        return found

    def conclude(self, context: Context, report: Report) -> dict[str, Any]:
        """
        End a run by its report, and return that as a dict when the run is done or a dry run.

        :raises AirflowFailException: it is not done; the report is in XCom nevertheless.
        """
        value = report.as_dict()
        if report.status in (Status.DONE, Status.PENDING):
            return value
        context["ti"].xcom_push(key="return_value", value=value)
        raise AirflowFailException(f"{report.status}: {report.detail}")


@contextmanager
def airflow_errors() -> Iterator[None]:
    """
    Translate errors so that Airflow retries only what a retry may cure.

    :raises AirflowFailException: a retry cannot help.
    :raises TransientError: a retry may help.
    """
    try:
        yield
    except TransientError:
        raise
    except ReindexError as error:
        # Raised deliberately: the message is complete, and a second traceback would bury it.
        raise AirflowFailException(truncate_detail(error)) from None


def skip_dry_run(folder: Folder) -> None:
    """
    Skip a task of a run that only plans.

    :raises AirflowSkipException: it is a dry run.
    """
    # Its record alone: a run may have a thousand others, and each would be a request to an object store.
    planned = folder.read_json(f"{TASKS}/plan--1.json")
    if planned and planned["result"].get("dry_run"):
        raise AirflowSkipException("dry run: nothing to do")
