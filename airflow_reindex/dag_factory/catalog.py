"""Factory of DAGs that start the jobs for a whole catalog: its director tables, then its collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, XComArg

from airflow_reindex.dag_factory.params import DEFAULT_ARGS, bound
from airflow_reindex.operators.catalog import MovesOperator, SummaryOperator, TablesOperator

CATALOG_DOC = """
### Rebuild the indexes of a catalog

Starts a run of `build_director_index` for each director table, some at a time, then a run of `reindex_collection` for
each collection, one after the other. A run that fails stops none of the same kind; collections wait until all tables
are built. Its result says what became of each. Clear the failed tasks, and only what failed is done again.
"""


def catalog_params() -> dict[str, Param]:
    """The params of a catalog's rebuild and their form; `database` has no default."""
    return {
        "database": Param(
            type="string", minLength=1, section="Tables", title="Database",
            description="The catalog's database, such as dp1.",
        ),
        "director_tables": Param(
            None, type=["null", "array"], items={"type": "string"}, section="Tables", title="Director tables",
            description="One a line. Empty: all that the replication system lists as published.",
        ),
        "build": Param(
            {"rebuild": 1}, type=["null", "object"], section="Tables", title="Params of each build",
            description="Further params of build_director_index, as JSON.",
        ),
        "collections": Param(
            None, type=["null", "array"], items={"type": "object"}, section="Collections", title="Collections",
            description="A list of params of reindex_collection, as JSON: one object a collection.",
        ),
    }  # fmt: skip


def catalog_dag(
    dag_id: str = "rebuild_catalog",
    *,
    bind: Mapping[str, Any] | None = None,
    schedule: Any = None,
    default_args: Mapping[str, Any] | None = None,
    build_dag_id: str = "build_director_index",
    move_dag_id: str = "reindex_collection",
    tables_at_a_time: int = 2,
    poll_seconds: int = 15,
    **dag_args: Any,
) -> DAG:
    """
    Make a DAG that starts the jobs for a whole catalog. With `database` bound it can have a schedule.

    Its tasks wait in the triggerer and occupy no slot. `airflow dags test` cannot run it, as nothing would execute the
    runs that it starts.

    :param bind: defaults of this DAG's params, by name.
    :param schedule: as for :class:`airflow.sdk.DAG`.
    :param default_args: override this factory's own for all tasks.
    :param build_dag_id: the DAG that builds one table's index.
    :param move_dag_id: the DAG that moves one collection.
    :param tables_at_a_time: simultaneous builds.
    :param poll_seconds: interval between two checks of a started run.
    :param dag_args: further arguments of the DAG.
    :raises ValueError: `bind` names an unknown param.
    """
    arguments = {"catchup": False, "tags": ["reindex"], "doc_md": CATALOG_DOC, **dag_args}
    args = {**DEFAULT_ARGS, **(default_args or {})}
    with DAG(dag_id, schedule=schedule, params=bound(catalog_params(), bind), default_args=args, **arguments) as dag:
        tables = TablesOperator(task_id="tables")
        moves = MovesOperator(task_id="collections")
        build = _start("build", build_dag_id, tables.output, tables_at_a_time, poll_seconds)
        move = _start("move", move_dag_id, moves.output, 1, poll_seconds)
        summary = SummaryOperator(
            task_id="summary", steps={"tables": "build", "collections": "move"}, trigger_rule="all_done", retries=0
        )
        tables >> moves
        build >> move >> summary
        [tables, moves] >> summary
        dag.add_result(summary.output)
    return dag


def _start(task_id: str, dag_id: str, confs: XComArg, at_a_time: int, poll_seconds: int) -> Any:
    return TriggerDagRunOperator.partial(
        task_id=task_id,
        trigger_dag_id=dag_id,
        # When cleared, the task continues the same run, which does only what is left.
        trigger_run_id="{{ run_id }}__{{ ti.task_id }}_{{ ti.map_index }}",
        reset_dag_run=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=poll_seconds,
        fail_when_dag_is_paused=True,
        # A build may take days; the run that it waits for has its own time-outs.
        execution_timeout=None,
        retries=0,
        max_active_tis_per_dagrun=at_a_time,
        trigger_rule="none_failed",
        map_index_template="{{ task.conf.get('director_table') or task.conf.get('dest_embedding_model_id') }}",
    ).expand(conf=confs)
