"""Operators of a collection's reindex."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pendulum
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import (
    AirflowRescheduleException,
    AirflowSkipException,
)

from airflow_reindex import config
from airflow_reindex.core.claims import Contender
from airflow_reindex.core.failures import ReindexError, RequestError
from airflow_reindex.core.heartbeat import LIVE
from airflow_reindex.core.report import Report
from airflow_reindex.core.run_outcome import States
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import recorded
from airflow_reindex.hooks import staging
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.queries import read_queries
from airflow_reindex.hooks.reindex_context import open_reindex
from airflow_reindex.hooks.staging_sweep import remove_expired_folders
from airflow_reindex.hooks.switch import switch_hook
from airflow_reindex.operators import metrics
from airflow_reindex.operators.aggregation import AggregationOperator
from airflow_reindex.operators.base import ReindexOperator, airflow_errors, skip_dry_run
from airflow_reindex.operators.lineage import collection_lineage, lineage_of
from airflow_reindex.operators.links import CollectionLink, PageLink, ReportLink
from airflow_reindex.vectors import account, report, steps
from airflow_reindex.vectors.model.plan import ITEMS, read_plan
from airflow_reindex.vectors.model.request import ReindexRequest
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.planning.planning import make_plan
from airflow_reindex.vectors.sync.context import ReindexContext
from airflow_reindex.vectors.sync.session import claim_of

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

#: Consumers schedule on this alias, or on the asset of one collection.
COLLECTION_ALIAS = "vector_collection"
#: Seconds between two checks whether a sub-task may start.
_TURN_SECONDS = 10


def collection_asset(conn_id: str, collection_id: str) -> Asset:
    """Return the asset of a vector collection; its events carry the number of items."""
    return Asset(name=collection_id, uri=f"collection://{conn_id}/{quote(collection_id, safe='')}")


class CollectionOperator(ReindexOperator):
    """
    Base of a reindex's operators: the store and the models that its request names.

    :param loaders: loader definitions by name, in addition to the deployment's.
    :param query_sets: query definitions by name, in addition to the deployment's.
    """

    operator_extra_links = (PageLink(), ReportLink(), CollectionLink())

    def __init__(
        self,
        *,
        loaders: Mapping[str, Any] | None = None,
        query_sets: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.loaders = loaders
        self.query_sets = query_sets

    def planned(self, folder: Folder, token: str | None = None) -> AbstractContextManager[ReindexContext]:
        """
        Open store, models and loader for the run's plan.

        :param token: the plan that this task was made for; ``None``: the current one.
        """
        plan = read_plan(folder, token)
        return open_reindex(plan.request, plan.conn_id, self.loaders)


class PlanOperator(CollectionOperator):
    """
    Check the request, claim the destination, and cut the source into windows.

    :param request: the params of the reindex by name (templated); ``None``: those of the run.
    :param subtasks_limit: the DAG's limit of simultaneous sub-tasks.
    """

    template_fields: Sequence[str] = ("request",)

    def __init__(
        self, *, request: Mapping[str, Any] | None = None, subtasks_limit: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.request = request
        self.subtasks_limit = subtasks_limit

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """
        Plan the reindex.

        :returns: ``{"token", "window", "label", "limit", "offset"}`` of each window, for mapping; none for a dry run or
            an empty collection.
        """
        folder = self.folder(context)
        with airflow_errors(), recorded(folder, "plan") as record:
            params = context["params"] if self.request is None else self.request
            request = ReindexRequest.parse(params)
            self._check_subtasks(request)
            self._check_query_set(request)
            listed = self._listed(context, request)
            conn_id = params.get("collection_conn_id") or CollectionHook.default_conn_name
            contender = Contender(
                owner=self.claimant(context),
                state_of=self.state_of(context),
                claim_timeout=config.integer("claim_timeout"),
                force=request.force_takeover,
            )
            with open_reindex(request, conn_id, self.loaders) as reindex:
                plan, figures = make_plan(reindex, request, folder, contender, conn_id=conn_id, listed=listed)
            record.token, record.rows = plan.token, int(figures["items"])
            record.result = {"dry_run": request.dry_run, **figures}
        if request.dry_run:
            self.log.info("dry run: the checks passed, nothing was changed: %s", figures)
            return []
        remove_expired_folders(keep=folder)
        return [
            {
                "token": plan.token,
                "window": window.number,
                "label": window.label,
                "offset": window.offset,
                "limit": window.limit,
                "at_a_time": request.max_subtasks,
            }
            for window in plan.windows
        ]

    def _check_subtasks(self, request: ReindexRequest) -> None:
        if self.subtasks_limit and request.max_subtasks > self.subtasks_limit:
            raise RequestError(
                f"max_subtasks={request.max_subtasks} is more than the {self.subtasks_limit} that this DAG allows at a "
                "time: bind a larger max_subtasks where the DAG is made."
            )

    def _check_query_set(self, request: ReindexRequest) -> None:
        if request.query_set:
            read_queries(request.query_set, {**config.query_sets(), **(self.query_sets or {})})

    def _listed(self, context: Context, request: ReindexRequest) -> list[str] | None:
        if not request.only_failed_of:
            return None
        other = staging.run_folder(context["dag_run"].dag_id, request.only_failed_of)
        listed = [item.object_id for item in account.read_failed(other)]
        if not listed:
            raise RequestError(
                f"run '{request.only_failed_of}' of this DAG has no list of failed items "
                f"({other.path(account.FAILED)}): nothing failed in it, or its files were removed."
            )
        return listed


class WindowOperator(CollectionOperator):
    """
    Reconcile one window.

    :param window: one item returned by :class:`PlanOperator`.
    """

    def __init__(self, *, window: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def execute(self, context: Context) -> dict[str, Any]:
        """Reconcile the window, and return what was done."""
        self._wait_for_turn(context)
        folder, given = self.folder(context), self.window
        with airflow_errors(), self.planned(folder, given["token"]) as reindex:
            done = steps.reindex_window(reindex, folder, self.claimant(context), given["token"], given["window"])
        metrics.count_task(context, report.KIND, done.seen)
        return {"offset": given["offset"], "limit": given["limit"], **asdict(done)}

    def _wait_for_turn(self, context: Context) -> None:
        """Wait while the run's ``max_subtasks``, which may be less than the DAG's limit, is reached."""
        limit = context["task"].max_active_tis_per_dagrun
        if limit is not None and self.window["at_a_time"] >= limit:
            return
        running = [
            int(name.rpartition("_")[2])
            for name, state in self.states_now(context).items()
            if state == "running" and name.startswith(f"{self.task_id}_")
        ]
        if sum(number < self.window["window"] for number in running) >= self.window["at_a_time"]:
            again = pendulum.now("UTC").add(seconds=_TURN_SECONDS)
            raise AirflowRescheduleException(again)  # type: ignore[no-untyped-call]


class VerifyOperator(CollectionOperator):
    """Catch up with writers, build the ANN index, and verify the destination."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Verify, and return the results."""
        folder = self.folder(context)
        skip_dry_run(folder)
        with airflow_errors():
            name = read_plan(folder).request.query_set
            queries = read_queries(name, {**config.query_sets(), **(self.query_sets or {})}) if name else None
            least = config.fraction("least_recall")
            with self.planned(folder) as reindex:
                return steps.verify(reindex, folder, self.claimant(context), least_recall=least, queries=queries)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Return the lineage from source to destination; called by OpenLineage's listener."""
        return lineage_of(task_instance, collection_lineage)


class SwitchOperator(CollectionOperator):
    """
    Switch readers over to the destination.

    :param on_switch: called with a :class:`~airflow_reindex.vectors.model.store.Pointer`, perhaps more than once;
        ``None``: the deployment's setting.
    """

    def __init__(self, *, on_switch: Callable[[Pointer], None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_switch = on_switch

    def execute(self, context: Context) -> dict[str, Any]:
        """Switch, and return what was switched."""
        folder, seconds = self.folder(context), config.integer("switch_lock_seconds")
        skip_dry_run(folder)
        with airflow_errors():
            if not read_plan(folder).request.deploy_as_blue:
                raise AirflowSkipException("deploy_as_blue is off: readers stay where they are")
            with self.planned(folder) as reindex:
                hook = switch_hook(self.on_switch)
                done = steps.switch(reindex, folder, self.claimant(context), hook=hook, lock_seconds=seconds)
        return asdict(done)


class AggregateOperator(CollectionOperator, AggregationOperator):
    """Account for every item, write the report, emit the asset event, and fail when the reindex is not done."""

    STEPS = report.STEPS
    UNIT = "items"
    OUTPUT = (metrics.ITEMS, "count")
    STAGED = ITEMS

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[AssetAlias(COLLECTION_ALIAS)], **kwargs)

    def account(self, context: Context, folder: Folder, states: Mapping[str, States]) -> tuple[Report, Iterable[str]]:
        """Account for every item of the plan; the list of all failed items lies beside the report."""
        params = context["params"]
        source, dest = (str(params.get(f"{role}_embedding_model_id") or "") for role in ("source", "dest"))
        made = report.make_report(folder, context["dag_run"].run_id, states, source, dest)
        for item in made.failed_items[:10]:
            self.log.warning("failed: %s: %s: %s", item["object_id"], item["failure_stage"], item["detail"])
        # A run without a plan may have the list of an earlier attempt.
        failed = account.read_failed(folder) if made.failed else ()
        return made, (item.failure_stage for item in failed)

    def announce(self, context: Context, report: Mapping[str, Any]) -> None:
        """Emit the event of the collection's asset, with the number of items."""
        made = report["notes"]["collection"]
        event = context["outlet_events"][AssetAlias(COLLECTION_ALIAS)]
        event.add(collection_asset(made["conn_id"], made["dest"]), extra={"items": report["count"]})

    def tidy(self, context: Context, folder: Folder) -> None:
        """Drop the items' outcomes, and release the claim."""
        # The report is written and the result is proven: a server that is away now must not fail the run.
        plan = read_plan(folder)
        # Before the claim is released: a resume of this run then sees that it has to start from the beginning.
        folder.remove(ITEMS)
        try:
            store = CollectionHook(plan.conn_id).store
            try:
                store.release(claim_of(plan, self.claimant(context)))
            finally:
                store.close()
        except ReindexError as error:
            self.log.warning("the claim stays until the next run: %s", error)
        for name in (account.OUTCOMES, LIVE):
            folder.remove(name)
