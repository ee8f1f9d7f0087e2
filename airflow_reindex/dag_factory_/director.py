"""Makes the DAGs: params with their form, wiring, trigger rules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param

from airflow_reindex.operators.director import (
    AggregateOperator,
    ExtractOperator,
    LoadOperator,
    PlanOperator,
    PublishOperator,
    SplitOperator,
)

#: A number, or what plainly means one. Without a `type` the form's field follows the default: a number or a switch.
_FLAG = [{"type": "integer"}, {"type": "boolean"}, {"type": "string"}]

DIRECTOR_DOC = """
### Build a director index

Reads the key and sub-chunk of every row of a director table's chunk tables, on all workers, and builds the table
`<database>__<director_table>` of the index database from them. Readers keep the present index until the new one is
complete and proven; a failed build changes nothing and can be resumed: clear the failed tasks.

`plan` → `extract` (mapped over groups of chunks) → `split` → `load` (mapped over key ranges) → `publish` → `aggregate`,
whose result is the report with the error map.
"""

_DEFAULT_ARGS = {
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
}


def director_index_params() -> dict[str, Param]:
    """
    The params of a build, with a form that explains each.

    :returns: by name; `database` and `director_table` have no default.
    """
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
        "rebuild": Param(
            0,
            anyOf=_FLAG,
            section="Index",
            title="Rebuild",
            description="1: replace an existing index when the new one is complete. 0: refuse.",
        ),
        "director_key": Param(
            None,
            type=["null", "string"],
            section="Columns",
            title="Director key",
            description="The key column. Empty: as the catalog says, else objectId.",
        ),
        "unique_primary_key": Param(
            None,
            anyOf=[{"type": "null"}, *_FLAG],
            section="Columns",
            title="Unique key",
            description="1: keys are unique, and duplicates an error. 0: they may repeat. "
            "Empty: as the catalog says, else 1.",
        ),
        "local": Param(
            0,
            anyOf=_FLAG,
            section="Loading",
            title="LOCAL",
            description="1: the task sends the rows to the czar's MySQL server (LOAD DATA LOCAL INFILE). "
            "0: the server reads them from the connection's shared folder.",
        ),
        "keep_previous": Param(
            False,
            anyOf=_FLAG,
            section="Loading",
            title="Keep the previous index",
            description="Keep the replaced index in the working database, for a roll-back.",
        ),
        "qserv_conn_id": Param(
            "qserv_default",
            type="string",
            section="Where",
            title="Connection",
            description="The Airflow connection of type qserv.",
        ),
        "dry_run": Param(
            False,
            anyOf=_FLAG,
            section="Safety",
            title="Dry run",
            description="Only check privileges, disk, sizes and plan, and estimate the time.",
        ),
        "force_takeover": Param(
            False,
            anyOf=_FLAG,
            section="Safety",
            title="Force the takeover",
            description="Take over the index even from a run that seems to be alive; that run "
            "then fails and changes nothing.",
        ),
    }


def director_index_dag(
    dag_id: str = "build_director_index",
    *,
    bind: Mapping[str, Any] | None = None,
    schedule: Any = None,
    default_args: Mapping[str, Any] | None = None,
    **dag_args: Any,
) -> DAG:
    """
    Make a DAG that builds director indexes.

    With `database` and `director_table` bound it can have a schedule.

    :param dag_id: the DAG's id.
    :param bind: params by name that become the defaults of this DAG.
    :param schedule: as for :class:`airflow.sdk.DAG`.
    :param default_args: arguments for all its tasks (`retries`, `pool`, `queue`, ...), over this factory's own.
    :param dag_args: further arguments of the DAG.
    :returns: the DAG.
    :raises ValueError: `bind` names a param that there is not.
    """
    params = director_index_params()
    unknown = set(bind or {}) - set(params)
    if unknown:
        raise ValueError(f"unknown params: {', '.join(sorted(unknown))}; there are {', '.join(params)}")
    for name, value in (bind or {}).items():
        params[name].value = value
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
        default_args={**_DEFAULT_ARGS, **(default_args or {})},
        **arguments,
    ) as dag:
        _wire(dag)
    return dag


def _wire(dag: DAG) -> None:
    plan = PlanOperator(task_id="plan")
    extract = ExtractOperator.partial(task_id="extract", map_index_template="{{ task.group['label'] }}").expand(
        group=plan.output
    )
    # Without chunks to read the mapped tasks are skipped; an empty index is built and published all the same.
    split = SplitOperator(task_id="split", trigger_rule="none_failed")
    load = LoadOperator.partial(task_id="load", map_index_template="{{ task.key_range['label'] }}").expand(
        key_range=split.output
    )
    publish = PublishOperator(task_id="publish", trigger_rule="none_failed")
    aggregate = AggregateOperator(task_id="aggregate", trigger_rule="all_done", retries=0)
    plan >> extract >> split >> load >> publish >> aggregate
    dag.add_result(aggregate.output)
