"""Operators of an audit of a director index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import MySQLdb
from airflow.sdk.exceptions import AirflowSkipException

from airflow_reindex import config
from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.report import Report
from airflow_reindex.core.run_outcome import States
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, REPORT, drop_staged
from airflow_reindex.director.audit import report, steps
from airflow_reindex.director.audit.index import IndexState, state_of
from airflow_reindex.director.audit.request import AuditRequest
from airflow_reindex.director.mysql.client import session
from airflow_reindex.director.report import ERRORS, FAILURES, write_failures
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.operators.aggregation import AggregationOperator
from airflow_reindex.operators.director import DirectorIndexOperator, groups_to_map, server_errors
from airflow_reindex.operators.links import IndexLink, ReportLink

if TYPE_CHECKING:
    from airflow.sdk import Context


class AuditOperator(DirectorIndexOperator):
    """A task of an audit."""

    operator_extra_links = (ReportLink(), IndexLink())


class AuditPlanOperator(AuditOperator):
    """Check the request, and assign chunks to tasks."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Plan the audit, and return ``{"token", "group", "label"}`` of each group of chunks."""
        folder, params = self.folder(context), context["params"]
        with server_errors():
            request = AuditRequest.parse(params, context["dag_run"].run_id)
            conn_id = params.get("qserv_conn_id") or QservHook.default_conn_name
            plan = steps.plan_audit(QservHook(conn_id).servers, request, folder, self.run_context(context, conn_id))
        return groups_to_map(plan)


class AuditExtractOperator(AuditOperator):
    """
    Stage the chunks of one group as sorted runs.

    :param group: one item returned by :class:`AuditPlanOperator`.
    """

    def __init__(self, *, group: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group

    def execute(self, context: Context) -> dict[str, Any]:
        """Extract the group, and return its number, chunks and rows."""
        folder, given = self.folder(context), self.group
        with server_errors():
            plan, servers = self.opened(folder, given["token"])
            done = steps.extract_group(servers, folder, plan, given["group"], config.task_memory())
        return {"group": given["group"], "chunks": done.chunks, "rows": done.rows}


class AuditSplitOperator(AuditOperator):
    """Cut the key space into ranges of equal weight."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Split, and return ``{"token", "range", "label"}`` of each key range."""
        folder = self.folder(context)
        if folder.read_json(PLAN) is None:
            raise AirflowSkipException("there is no plan")
        with server_errors():
            plan, servers = self.opened(folder)
            split = steps.split_audit(servers, folder, plan, config.integer("rows_per_task"))
        return [{"token": plan.token, "range": part.number, "label": part.label} for part in split.ranges]


class CompareOperator(AuditOperator):
    """
    Compare one key range of the index with the chunk tables' rows.

    :param key_range: one item returned by :class:`AuditSplitOperator`.
    """

    def __init__(self, *, key_range: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key_range = key_range

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare the range, and return its number and the differing rows by kind."""
        folder, given = self.folder(context), self.key_range
        with server_errors():
            plan, servers = self.opened(folder, given["token"])
            found = steps.compare_range(servers, folder, plan, given["range"], config.task_memory())
        return {"range": given["range"], **found.totals()}


class AuditAggregateOperator(AuditOperator, AggregationOperator):
    """Account for every chunk, write the report, and fail unless the index is proven correct."""

    STEPS = report.STEPS
    UNIT = "chunks are right"

    template_fields: Sequence[str] = ()

    def account(self, context: Context, folder: Folder, states: Mapping[str, States]) -> tuple[Report, Iterable[str]]:
        """Account for every chunk that was to be compared; all failures lie beside the report."""
        params = context["params"]
        source = f"{params.get('database')}.{params.get('director_table')}"
        dest = f"{params.get('database')}__{params.get('director_table')}"
        present = self._present(folder)
        made, failures = report.make_report(folder, context["dag_run"].run_id, states, source, dest, present)
        write_failures(folder, failures)
        return made, {failure.chunk: failure.kind.metric for failure in failures}.values()

    def is_finished(self, report: Report) -> bool:
        """Whether all tasks succeeded, whatever they found."""
        return not any(set(states) - {"success", "skipped"} for states in report.children.values())

    def tidy(self, context: Context, folder: Folder) -> None:  # noqa: ARG002 - the other jobs' need it
        """Drop the staged files but for the failures."""
        drop_staged(folder, keep=(REPORT, ERRORS, FAILURES))

    def _present(self, folder: Folder) -> IndexState | None:
        try:
            plan, servers = self.opened(folder)
            with session(servers.czar) as czar:
                return state_of(czar, servers.tables(plan.request))
        except (ReindexError, MySQLdb.Error):
            # The server is gone or does not answer: the tasks' own errors are more specific.
            return None
