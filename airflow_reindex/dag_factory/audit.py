"""Factory of DAGs that audit director indexes against their chunk tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import DAG, Param

from airflow_reindex.dag_factory.director import EXTRACT_TASKS, LOAD_TASKS, director_index_params
from airflow_reindex.dag_factory.params import bound, task_args
from airflow_reindex.operators.audit import (
    AuditAggregateOperator,
    AuditExtractOperator,
    AuditPlanOperator,
    AuditSplitOperator,
    CompareOperator,
)

AUDIT_DOC = """
### Audit a director index

Compares a live index with its chunk tables, all of them or a sample, and changes nothing. The run is green when they
agree; else the report lists, by worker and chunk, how many rows are missing in the index, surplus, or wrong.

A sample compares all rows of some chunks, and looks up some rows of the index in the chunk tables that they name: it
finds any damage to these chunks, but surplus rows of others only by chance.
"""
_SHARED = (
    "database", "director_table", "director_key", "unique_primary_key", "max_rows_per_second", "qserv_conn_id",
    "allow_unlisted_chunks",
)  # fmt: skip


def director_index_audit_params() -> dict[str, Param]:
    """The params of an audit and their form; `database` and `director_table` have no default."""
    params = director_index_params()
    return {
        **{name: params[name] for name in _SHARED},
        "sample": Param(
            1,
            type=["number", "string"],
            section="Sample",
            title="Sample",
            description="1: all chunks. Less than 1: this fraction of them, such as 0.01. More: so many chunks.",
        ),
        "seed": Param(
            None,
            type=["null", "integer", "string"],
            section="Sample",
            title="Seed",
            description="Which chunks. Empty: other ones in each run; the report has the seed, to repeat it.",
        ),
    }


def director_index_audit_dag(
    dag_id: str = "audit_director_index",
    *,
    bind: Mapping[str, Any] | None = None,
    schedule: Any = None,
    default_args: Mapping[str, Any] | None = None,
    **dag_args: Any,
) -> DAG:
    """
    Make a DAG that audits director indexes. With `database` and `director_table` bound it can have a schedule.

    :param bind: defaults of this DAG's params, by name.
    :param schedule: as for :class:`airflow.sdk.DAG`.
    :param default_args: override this factory's own for all tasks.
    :param dag_args: further arguments of the DAG.
    :raises ValueError: `bind` names an unknown param.
    """
    params = bound(director_index_audit_params(), bind)
    arguments = {
        "catchup": False,
        "tags": ["reindex", "qserv"],
        "doc_md": AUDIT_DOC,
        "render_template_as_native_obj": True,
        **dag_args,
    }
    with DAG(
        dag_id, schedule=schedule, params=params, default_args=task_args("director", default_args), **arguments
    ) as dag:
        _wire(dag)
    return dag


def _wire(dag: DAG) -> None:
    plan = AuditPlanOperator(task_id="plan")
    extract = AuditExtractOperator.partial(
        task_id="extract", map_index_template="{{ task.group['label'] }}", max_active_tis_per_dagrun=EXTRACT_TASKS
    ).expand(group=plan.output)
    # Chunks that failed are reported; the others are compared nevertheless.
    split = AuditSplitOperator(task_id="split", trigger_rule="all_done")
    compare = CompareOperator.partial(
        task_id="compare", map_index_template="{{ task.key_range['label'] }}", max_active_tis_per_dagrun=LOAD_TASKS
    ).expand(key_range=split.output)
    aggregate = AuditAggregateOperator(task_id="aggregate", trigger_rule="all_done", retries=0)
    plan >> extract >> split >> compare >> aggregate
    dag.add_result(aggregate.output)
