"""Lineage for OpenLineage. Nothing here is called where its provider is not installed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.report import Status
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, REPORT, task_records
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.hooks import staging

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

log = logging.getLogger(__name__)


def lineage_of(
    ti: Any, describe: Callable[[Folder], OperatorLineage[Any, Any] | None]
) -> OperatorLineage[Any, Any] | None:
    """
    Return the lineage of a task's run, or ``None``; errors are logged and never fail the task.

    :param describe: called with the run's folder.
    """
    try:
        return describe(staging.run_folder(ti.dag_id, ti.run_id))
    except Exception as error:
        log.warning("no lineage of this task: %s: %s", type(error).__name__, error)
        return None


def index_lineage(folder: Folder) -> OperatorLineage[Any, Any] | None:
    """Return the lineage of a published director index."""
    value = folder.read_json(PLAN)
    if value is None:
        # The event may come after the report: the plan is gone then, and the report has the same facts.
        return _reported_index(folder)
    plan = Plan.from_dict(value)
    published = next((r for r in task_records(folder) if (r.task, r.token) == ("publish", plan.token)), None)
    return _lineage(
        f"qserv://{plan.conn_id}",
        f"{plan.request.database}.{plan.request.director_table}",
        f"{plan.index_database}.{plan.request.index_table}",
        rows=published.rows if published and published.result and not published.error else None,
        columns={plan.key_column: f"{plan.key.sql} NOT NULL", "chunkId": "INT", "subChunkId": plan.sub_chunk_type},
    )


def _reported_index(folder: Folder) -> OperatorLineage[Any, Any] | None:
    report = folder.read_json(REPORT)
    if report is None or report["status"] != Status.DONE:
        return None
    index = report["notes"]["index"]
    return _lineage(
        f"qserv://{index['qserv_conn_id']}",
        report["source"],
        report["dest"],
        rows=report["rows"],
        columns=index["columns"],
    )


def collection_lineage(folder: Folder) -> OperatorLineage[Any, Any] | None:
    """Return the lineage of a verified collection."""
    # Read as JSON: the plan's class would import what only the other job's installations have.
    plan = folder.read_json(PLAN)
    if plan is None:
        return None
    proven = next((r for r in task_records(folder) if (r.task, r.token) == ("verify", plan["token"])), None)
    result = proven.result if proven and not proven.error else {}
    return _lineage(
        f"collection://{plan['conn_id']}",
        plan["source"]["collection_id"],
        plan["dest"]["collection_id"],
        rows=result["seen"] - result["failed"] if result else None,
    )


def _lineage(
    namespace: str, source: str, dest: str, *, rows: int | None, columns: Mapping[str, str] | None = None
) -> OperatorLineage[Any, Any]:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset, schema_dataset

    schema = schema_dataset.SchemaDatasetFacet(
        fields=[schema_dataset.SchemaDatasetFacetFields(name=n, type=kind) for n, kind in (columns or {}).items()]
    )
    count = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OperatorLineage(
        inputs=[InputDataset(namespace=namespace, name=source)],
        outputs=[
            OutputDataset(
                namespace=namespace,
                name=dest,
                facets={"schema": schema} if columns else {},
                outputFacets={"outputStatistics": count} if rows is not None else {},
            )
        ],
    )
