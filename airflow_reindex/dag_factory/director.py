"""Factory of DAGs that build director indexes: params and form, wiring, trigger rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import DAG, Param

from airflow_reindex.dag_factory.params import FLAG, bound, task_args
from airflow_reindex.operators.director import (
    AggregateOperator,
    ExtractOperator,
    LoadOperator,
    PlanOperator,
    PublishOperator,
    SplitOperator,
)
from airflow_reindex.operators.throttle import ThrottleOperator

#: Simultaneous tasks of a run. One B-tree does not accept rows faster from more than a few connections.
EXTRACT_TASKS, LOAD_TASKS = 16, 4

THROTTLE_DOC = """
### Throttle the build of a director index

Changes how many rows a second, and how many connections, the running build of an index may use; it heeds that within
seconds. Trigger it again with 0 and 0 to let the build go on at full speed.
"""

DIRECTOR_DOC = """
### Build a director index

Reads the key and sub-chunk of every row of a director table's chunk tables, on all workers, and builds the table
`<database>__<director_table>` of the index database from them. Readers keep the present index until the new one is
complete and proven; a failed build changes nothing and can be resumed: clear the failed tasks.

`plan` → `extract` (mapped over groups of chunks) → `split` → `load` (mapped over key ranges) → `publish` → `aggregate`,
whose result is the report with the error map.
"""


def _connection() -> Param:
    return Param(
        "qserv_default",
        type="string",
        section="Where",
        title="Connection",
        description="The Airflow connection of type qserv.",
    )


def _limits() -> dict[str, Param]:
    return {
        "max_rows_per_second": Param(
            0,
            type=["integer", "string"],
            section="Limits",
            title="Rows a second",
            description="At most so many rows are read or loaded in a second, by all tasks together. 0: any number.",
        ),
        "max_connections": Param(
            0,
            type=["integer", "string"],
            section="Limits",
            title="Connections",
            description="At most so many connections load or verify at a time. 0: as many as there are tasks.",
        ),
    }


def _index_params() -> dict[str, Param]:
    return {
        "database": Param(
            type="string",
            minLength=1,
            section="Index",
            title="Database",
            description="The catalog's database, such as dp1.",
        ),
        "director_table": Param(
            type="string",
            minLength=1,
            section="Index",
            title="Director table",
            description="The director table whose index is built, such as Object.",
        ),
    }


def _column_params() -> dict[str, Param]:
    return {
        "director_key": Param(
            None,
            type=["null", "string"],
            section="Columns",
            title="Director key",
            description="The key column. Empty: as the catalog says, else objectId.",
        ),
        "unique_primary_key": Param(
            None,
            anyOf=[{"type": "null"}, *FLAG],
            section="Columns",
            title="Unique key",
            description="1: keys are unique, and duplicates an error. 0: they may repeat. "
            "Empty: as the catalog says, else 1.",
        ),
    }


def _loading_params() -> dict[str, Param]:
    return {
        "local": Param(
            0,
            anyOf=FLAG,
            section="Loading",
            title="LOCAL",
            description="1: the task sends the rows to the czar's MySQL server (LOAD DATA LOCAL INFILE). "
            "0: the server reads them from the connection's shared folder.",
        ),
        "keep_previous": Param(
            False,
            anyOf=FLAG,
            section="Loading",
            title="Keep the previous index",
            description="Keep the replaced index in the working database, for a roll-back.",
        ),
        "changed_chunks": Param(
            "warn",
            enum=["warn", "fail", "reread"],
            section="Loading",
            title="Chunks that change meanwhile",
            description="What to do about chunk tables that change between their reading and the swap. warn: publish "
            "the rows as read, and name the chunks. fail: publish nothing. reread: read them again first.",
        ),
    }


def director_index_params() -> dict[str, Param]:
    """The params of a build and their form; `database` and `director_table` have no default."""
    return {
        **_index_params(),
        "rebuild": Param(
            0,
            anyOf=FLAG,
            section="Index",
            title="Rebuild",
            description="1: replace an existing index when the new one is complete. 0: refuse.",
        ),
        **_column_params(),
        **_loading_params(),
        **_limits(),
        "qserv_conn_id": _connection(),
        "dry_run": Param(
            False,
            anyOf=FLAG,
            section="Safety",
            title="Dry run",
            description="Only check privileges, disk, sizes and plan, and estimate the time.",
        ),
        "force_takeover": Param(
            False,
            anyOf=FLAG,
            section="Safety",
            title="Force the takeover",
            description="Take over the index even from a run that seems to be alive; that run "
            "then fails and changes nothing.",
        ),
        "allow_unlisted_chunks": Param(
            False,
            anyOf=FLAG,
            section="Safety",
            title="Leave out unlisted chunks",
            description="Leave out chunk tables with rows that the replication system does not list, and list them in "
            "the report. Otherwise such a catalog is refused.",
        ),
    }


def director_index_dag(
    dag_id: str = "build_director_index",
    *,
    bind: Mapping[str, Any] | None = None,
    schedule: Any = None,
    default_args: Mapping[str, Any] | None = None,
    extract_tasks: int = EXTRACT_TASKS,
    load_tasks: int = LOAD_TASKS,
    **dag_args: Any,
) -> DAG:
    """
    Make a DAG that builds director indexes. With `database` and `director_table` bound it can have a schedule.

    :param bind: defaults of this DAG's params, by name.
    :param schedule: as for :class:`airflow.sdk.DAG`.
    :param default_args: override this factory's own for all tasks (`retries`, `pool`, `queue`, ...).
    :param extract_tasks: simultaneous extract tasks of a run; each has one connection to a worker and two to the czar.
    :param load_tasks: simultaneous load tasks of a run; each has two connections to the czar.
    :param dag_args: further arguments of the DAG.
    :raises ValueError: `bind` names an unknown param.
    """
    params = bound(director_index_params(), bind)
    arguments = {
        "catchup": False,
        "tags": ["reindex", "qserv"],
        "doc_md": DIRECTOR_DOC,
        "render_template_as_native_obj": True,
        **dag_args,
    }
    with DAG(
        dag_id,
        schedule=schedule,
        params=params,
        default_args=task_args("director", default_args),
        **arguments,
    ) as dag:
        _wire(dag, extract_tasks, load_tasks)
    return dag


def director_index_throttle_dag(dag_id: str = "throttle_director_index", **dag_args: Any) -> DAG:
    """Make a DAG that changes the speed limits of a running build."""
    arguments = {"catchup": False, "tags": ["reindex", "qserv"], "doc_md": THROTTLE_DOC, **dag_args}
    params = {**_index_params(), **_limits(), "qserv_conn_id": _connection()}
    with DAG(dag_id, schedule=None, params=params, **arguments) as dag:
        dag.add_result(ThrottleOperator(task_id="throttle").output)
    return dag


def _wire(dag: DAG, extract_tasks: int, load_tasks: int) -> None:
    plan = PlanOperator(task_id="plan")
    extract = ExtractOperator.partial(
        task_id="extract",
        map_index_template="{{ task.group['label'] }}",
        max_active_tis_per_dagrun=extract_tasks,
    ).expand(group=plan.output)
    # Without chunks to read the mapped tasks are skipped; an empty index is built and published nevertheless.
    split = SplitOperator(task_id="split", trigger_rule="none_failed")
    load = LoadOperator.partial(
        task_id="load",
        map_index_template="{{ task.key_range['label'] }}",
        max_active_tis_per_dagrun=load_tasks,
    ).expand(key_range=split.output)
    publish = PublishOperator(task_id="publish", trigger_rule="none_failed")
    aggregate = AggregateOperator(task_id="aggregate", trigger_rule="all_done", retries=0)
    plan >> extract >> split >> load >> publish >> aggregate
    dag.add_result(aggregate.output)
