"""Operators of a director-index build."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import MySQLdb
from airflow.sdk import Asset, AssetAlias

from airflow_reindex import config
from airflow_reindex.core.failures import ReindexError, TransientError, truncate_detail
from airflow_reindex.core.report import Report
from airflow_reindex.core.run_outcome import States, task_states
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN
from airflow_reindex.director import report, steps
from airflow_reindex.director.model import records
from airflow_reindex.director.model.plan import Plan, group_label
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import describe, mysql_reason
from airflow_reindex.director.planning.planning import RunContext, make_plan
from airflow_reindex.hooks import staging
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.hooks.staging_sweep import remove_expired_folders
from airflow_reindex.monitoring.run_info import RunInfo
from airflow_reindex.monitoring.run_snapshot import keep
from airflow_reindex.operators import metrics
from airflow_reindex.operators.aggregation import AggregationOperator
from airflow_reindex.operators.base import ReindexOperator, airflow_errors, skip_dry_run
from airflow_reindex.operators.lineage import index_lineage, lineage_of
from airflow_reindex.operators.links import IndexLink, PageLink, ReportLink

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_reindex.director.model.servers import Servers

#: Consumers schedule on this alias, or on the asset of one index.
INDEX_ALIAS = "director_index"


def index_asset(conn_id: str, index_table: str) -> Asset:
    """
    Return the asset of a director index; its events carry the row count.

    :param index_table: ``<database>__<director_table>``.
    """
    return Asset(name=index_table, uri=f"qserv://{conn_id}/{quote(index_table, safe='')}")


@contextmanager
def server_errors() -> Iterator[None]:
    """
    Translate errors, including those of MySQL servers, so that Airflow retries only what a retry may cure.

    :raises AirflowFailException: a retry cannot help.
    :raises TransientError: a retry may help.
    """
    with airflow_errors():
        try:
            yield
        except MySQLdb.Error as error:
            reason = mysql_reason(error)
            raise TransientError(truncate_detail(reason.text), code=reason.code) from error


class DirectorIndexOperator(ReindexOperator):
    """Base of a build's operators: the servers that the plan names."""

    operator_extra_links: Collection[BaseOperatorLink] = (PageLink(), ReportLink(), IndexLink())

    def opened(self, folder: Folder, token: str | None = None) -> tuple[Plan, Servers]:
        """
        The run's plan, and the servers that it names.

        :param token: the plan that this task was made for; ``None``: the present one.
        :raises ReindexError: there is no plan, or it is another one.
        """
        plan = records.read_plan(folder, token)
        return plan, QservHook(plan.conn_id).servers

    def run_context(self, context: Context, conn_id: str, kept: Folder | None = None) -> RunContext:
        """
        The run as its planner needs it.

        :param kept: as for :class:`RunContext`.
        """
        return RunContext(
            owner=self.claimant(context),
            conn_id=conn_id,
            state_of=self.state_of(context),
            claim_timeout=config.integer("claim_timeout"),
            rows_per_task=config.integer("rows_per_task"),
            memory=config.task_memory(),
            open_folder=staging.former_folder,
            kept=kept,
        )


def groups_to_map(plan: Plan) -> list[dict[str, Any]]:
    """``{"token", "group", "label"}`` of each group of a plan's chunks, for mapping."""
    return [
        {"token": plan.token, "group": number, "label": group_label(group)} for number, group in enumerate(plan.groups)
    ]


class PlanOperator(DirectorIndexOperator):
    """
    Check the request, claim the index, and assign chunks to tasks.

    :param request: the params of the build by name (templated); ``None``: those of the run.
    :param qserv_conn_id: the connection (templated); ``None``: the run's param of that name.
    """

    template_fields: Sequence[str] = ("request", "qserv_conn_id")

    def __init__(
        self, *, request: Mapping[str, Any] | None = None, qserv_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.request = request
        self.qserv_conn_id = qserv_conn_id

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """
        Plan the build.

        :returns: ``{"token", "group", "label"}`` of each group of chunks, for mapping; none for a dry run or an empty
            catalog.
        """
        folder = self.folder(context)
        with server_errors(), records.recorded(folder, "plan") as record:
            params = context["params"] if self.request is None else self.request
            request = BuildRequest.parse(params)
            conn_id = self.qserv_conn_id or params.get("qserv_conn_id") or QservHook.default_conn_name
            hook = QservHook(conn_id)
            run = self.run_context(context, conn_id, staging.kept_runs(conn_id, request.index_table))
            plan, figures = make_plan(hook.servers, request, folder, run)
            record.token = plan.token
            record.rows = int(str(figures["rows"]))
            record.result = {"dry_run": request.dry_run, "chunks": plan.chunks, **figures}
        if request.dry_run:
            self.log.info("dry run: the checks passed, nothing was changed")
            return []
        remove_expired_folders(keep=folder)
        return groups_to_map(plan)


class ExtractOperator(DirectorIndexOperator):
    """
    Stage the chunks of one group as sorted runs.

    :param group: one item returned by :class:`PlanOperator`.
    """

    def __init__(self, *, group: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group

    def execute(self, context: Context) -> dict[str, Any]:
        """Extract the group, and return its number, chunks and rows."""
        folder, memory = self.folder(context), config.task_memory()
        with server_errors():
            plan, servers = self.opened(folder, self.group["token"])
            done = steps.extract_group(servers, folder, plan, self.group["group"], memory)
        metrics.count_task(context, report.KIND, done.rows)
        return {"group": self.group["group"], "chunks": done.chunks, "rows": done.rows}


class SplitOperator(DirectorIndexOperator):
    """Cut the key space into ranges of equal weight, and create the shadow table."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Split, and return ``{"token", "build", "range", "label"}`` of each key range; none for an empty catalog."""
        folder = self.folder(context)
        skip_dry_run(folder)
        with server_errors():
            plan, servers = self.opened(folder)
            split = steps.split_build(servers, folder, plan, config.integer("rows_per_task"))
        return [
            {"token": plan.token, "build": split.build, "range": key_range.number, "label": key_range.label}
            for key_range in split.ranges
        ]


class LoadOperator(DirectorIndexOperator):
    """
    Load one key range into the shadow table.

    :param key_range: one item returned by :class:`SplitOperator`.
    """

    def __init__(self, *, key_range: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key_range = key_range

    def execute(self, context: Context) -> dict[str, Any]:
        """Load the range, and return its number and rows."""
        folder, given = self.folder(context), self.key_range
        with server_errors():
            plan, servers = self.opened(folder, given["token"])
            done = steps.load_range(servers, folder, plan, given["build"], given["range"], config.task_memory())
        metrics.count_task(context, report.KIND, done.rows)
        return {"range": given["range"], "rows": done.rows, "new_rows": done.new_rows}


class PublishOperator(DirectorIndexOperator):
    """Verify the shadow table and swap it in by one atomic rename."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish, and return the index's rows and the name of the previous index."""
        folder = self.folder(context)
        skip_dry_run(folder)
        with server_errors():
            plan, servers = self.opened(folder)
            published = steps.publish_build(servers, folder, plan, config.task_memory())
        return {"rows": published.rows, "previous": published.previous}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Return the lineage from director table to index; called by OpenLineage's listener."""
        return lineage_of(task_instance, index_lineage)


class AggregateOperator(DirectorIndexOperator, AggregationOperator):
    """Account for every chunk, write the report, emit the asset event, and fail when the build is not done."""

    STEPS = report.STEPS
    UNIT = "chunks"
    OUTPUT = (metrics.ROWS, "rows")
    STAGED = PLAN

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[AssetAlias(INDEX_ALIAS)], **kwargs)

    def account(self, context: Context, folder: Folder, states: Mapping[str, States]) -> tuple[Report, Iterable[str]]:
        """Account for every chunk of the plan; all failures lie beside the report."""
        params = context["params"]
        source, dest = f"{params.get('database')}.{params.get('director_table')}", ""
        plan = folder.read_json(PLAN)
        if plan:
            asked = plan["request"]
            source = f"{asked['database']}.{asked['director_table']}"
            dest = f"{plan['index_database']}.{asked['database']}__{asked['director_table']}"
        made, failures = report.make_report(folder, context["dag_run"].run_id, states, source, dest)
        report.write_failures(folder, failures)
        return made, {failure.chunk: failure.kind.metric for failure in failures}.values()

    def announce(self, context: Context, report: Mapping[str, Any]) -> None:
        """Emit the event of the index's asset, with the number of rows."""
        index = report["notes"]["index"]
        event = context["outlet_events"][AssetAlias(INDEX_ALIAS)]
        event.add(index_asset(index["qserv_conn_id"], index["table"]), extra={"rows": report["rows"]})

    def tidy(self, context: Context, folder: Folder) -> None:
        """Drop the staged rows, but for those that the next build may read, and the mark of the swap."""
        plan = records.read_plan(folder)
        run = context["dag_run"]
        tasks = task_states(self.states_now(context), report.STEPS)
        keep(folder, RunInfo(dag_id=run.dag_id, run_id=run.run_id, state="success", tasks=tasks))
        report.drop_build(folder, staging.kept_runs(plan.conn_id, plan.request.index_table))
        # The report is written and the index is live: a server that is away now must not fail the run.
        try:
            steps.finish_build(QservHook(plan.conn_id).servers, plan)
        except (ReindexError, MySQLdb.Error) as error:
            self.log.warning("the mark of the swap stays until the next build of this index: %s", describe(error))
