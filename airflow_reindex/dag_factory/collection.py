"""Factory of DAGs that move vector collections: params and form, wiring, trigger rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import DAG, Param

from airflow_reindex.dag_factory.params import DEFAULT_ARGS, FLAG, bound, task_args
from airflow_reindex.operators.collection import (
    AggregateOperator,
    PlanOperator,
    SwitchOperator,
    VerifyOperator,
    WindowOperator,
)
from airflow_reindex.operators.roll_back import RollBackOperator
from airflow_reindex.vectors.model.request import BATCH_SIZE, MAX_SAME_VECTORS
from airflow_reindex.vectors.model.store import Pointer

REINDEX_DOC = """
### Move a vector collection to another embedding model

Embeds every item of the source's collection with the destination's model. The source stays as it is, readers and
writers keep using it; what changes meanwhile is caught up. Done again, a run does only what is left: an unchanged
collection embeds nothing. With `deploy_as_blue` readers are switched over once the result is proven.

`plan` → `reindex` (mapped over windows of items) → `verify` → `switch` → `aggregate`, whose result is the report with
the error map; the failed items are listed beside it.
"""

ROLLBACK_DOC = """
### Take a switch back

Points an alias back to the collection that its readers followed before the last switch, and says which newer writes
that one lacks.
"""

_SUBJECT = (
    "Switch readers of alias '{{ params.alias }}' from model {{ params.source_embedding_model_id }} to "
    "{{ params.dest_embedding_model_id }}?"
)


def collection_reindex_params() -> dict[str, Param]:
    """The params of a reindex and their form; neither model has a default."""
    return {**_what(), **_how(), **_readers(), **_safety()}


def _text(default: str | None, section: str, title: str, description: str, **schema: Any) -> Param:
    kind = {"type": ["null", "string"]} if default is None else {"type": "string"}
    return Param(default, section=section, title=title, description=description, **{**kind, **schema})


def _flag(section: str, title: str, description: str) -> Param:
    return Param(False, anyOf=[{"type": "null"}, *FLAG], section=section, title=title, description=description)


def _what() -> dict[str, Param]:
    section = "Collection"
    return {
        "source_embedding_model_id": Param(
            type="string", minLength=1, section=section, title="Source model",
            description="The embedding_model connection whose collection is read.",
        ),
        "dest_embedding_model_id": Param(
            type="string", minLength=1, section=section, title="Destination model",
            description="The embedding_model connection whose collection is built, or brought up to date.",
        ),
        "collection_conn_id": _text(
            "collections_default", section, "Connection", "Where the collections are: of type postgres or lancedb."
        ),
        "loader": _text(
            "payload", section, "Loader", "Where contents come from: payload, or a loader that the deployment defines."
        ),
    }  # fmt: skip


def _how() -> dict[str, Param]:
    section = "Work"
    number = [{"type": "number"}, {"type": "string"}]
    return {
        "batch_size": Param(
            BATCH_SIZE, anyOf=[{"type": "integer"}, {"type": "string"}], section=section, title="Batch size",
            description="Items a sub-task; more where a collection would need more than 1024 sub-tasks.",
        ),
        "max_subtasks": Param(
            4, anyOf=[{"type": "integer"}, {"type": "string"}], section=section, title="Sub-tasks at a time",
            description="At most as many as the DAG allows.",
        ),
        "max_failed": Param(
            -1, anyOf=number, section=section, title="Failure limit",
            description="-1: none, but a switch still needs 0 failures. A whole number of items from 0. A number "
            "strictly between 0 and 1: a fraction of all items. The run fails when failures exceed it.",
        ),
        "max_same_vectors": Param(
            MAX_SAME_VECTORS, anyOf=number, section=section, title="Same vectors of different texts",
            description="The share of vectors, from 0 to 1, that may belong to several texts that are clearly "
            "different; with more of them, the run fails before readers move. 1: any, also of a model that cuts texts.",
        ),
        "only_failed_of": _text(
            None, section, "Only the failed items of", "A run of this DAG whose failed items are tried again."
        ),
        "dry_run": _flag(section, "Dry run", "Only check, count, and estimate time and cost; nothing is written."),
    }  # fmt: skip


def _readers() -> dict[str, Param]:
    section = "Readers"
    return {
        "deploy_as_blue": _flag(section, "Switch readers over", "Point the alias to the result once it is proven."),
        "alias": _text(None, section, "Alias", "The name that readers follow."),
        "query_set": _text(
            None, section, "Queries", "Queries of the deployment's, put to both models before the switch."
        ),
        "delete_source": _flag(section, "Delete the source", "Remove the old collection after the switch."),
        "drop_user_objects": _flag(
            section, "Give up users' objects", "Switch although personalised objects are not carried over."
        ),
    }


def _safety() -> dict[str, Param]:
    section = "Safety"
    return {
        "writes_go_to": Param(
            "source", enum=["source", "dest"], type="string", section=section, title="Writers write to",
            description="source: the source is the truth until the switch. dest: the deployment diverts writers to the "
            "destination; then nothing newer there is overwritten or removed.",
        ),
        "overwrite_foreign": _flag(
            section, "Overwrite what others wrote", "Make what others have written to the destination, or removed from "
            "it, as the source has it; otherwise it is left alone, and counted in the report.",
        ),
        "wait_on_conflict": _flag(
            section, "Wait on a conflict", "Wait while another run holds one of the collections, instead of failing."
        ),
        "force_takeover": _flag(
            section, "Force the takeover", "Take the destination even from a run that seems to be alive; that run then "
            "fails and changes nothing more.",
        ),
    }  # fmt: skip


def collection_reindex_dag(
    dag_id: str = "reindex_collection",
    *,
    bind: Mapping[str, Any] | None = None,
    schedule: Any = None,
    default_args: Mapping[str, Any] | None = None,
    loaders: Mapping[str, Any] | None = None,
    query_sets: Mapping[str, Any] | None = None,
    on_switch: Callable[[Pointer], None] | None = None,
    approval: bool = False,
    **dag_args: Any,
) -> DAG:
    """
    Make a DAG that moves vector collections to another embedding model. With both models bound it can have a schedule.

    :param bind: defaults of this DAG's params, by name; `max_subtasks` also becomes the DAG's own limit.
    :param schedule: as for :class:`airflow.sdk.DAG`.
    :param default_args: override this factory's own for all tasks (`retries`, `pool`, `queue`, ...).
    :param loaders: loader definitions by name, in addition to `[reindex] loaders`.
    :param query_sets: query definitions by name, in addition to `[reindex] query_sets`.
    :param on_switch: called with the alias's new pointer after a switch; ``None``: `[reindex] on_switch`.
    :param approval: require a person's approval of each switch; not in `airflow dags test`.
    :param dag_args: further arguments of the DAG.
    :raises ValueError: `bind` names an unknown param.
    """
    params = bound(collection_reindex_params(), bind)
    arguments = {
        "catchup": False,
        "tags": ["reindex", "vectors"],
        "doc_md": REINDEX_DOC,
        "render_template_as_native_obj": True,
        **dag_args,
    }
    with DAG(
        dag_id,
        schedule=schedule,
        params=params,
        default_args=task_args("collection", default_args),
        **arguments,
    ) as dag:
        _wire(
            dag, int(params["max_subtasks"].value), {"loaders": loaders, "query_sets": query_sets}, on_switch, approval
        )
    return dag


def _wire(
    dag: DAG,
    at_a_time: int,
    named: Mapping[str, Any],
    on_switch: Callable[[Pointer], None] | None,
    approval: bool,
) -> None:
    plan = PlanOperator(task_id="plan", subtasks_limit=at_a_time, **named)
    reindex = WindowOperator.partial(
        task_id="reindex",
        map_index_template="{{ task.window['label'] }}",
        max_active_tis_per_dagrun=at_a_time,
        **named,
    ).expand(window=plan.output)
    # Without items the mapped tasks are skipped; an empty collection is verified and switched nevertheless.
    verify = VerifyOperator(task_id="verify", trigger_rule="none_failed", **named)
    switch = SwitchOperator(task_id="switch", on_switch=on_switch, trigger_rule="none_failed", **named)
    aggregate = AggregateOperator(task_id="aggregate", trigger_rule="all_done", retries=0, **named)
    plan >> reindex >> verify
    if approval:
        from airflow_reindex.operators.approval import ApproveOperator

        # A person may take longer than a task's usual time-out.
        approve = ApproveOperator(task_id="approve", subject=_SUBJECT, execution_timeout=None)
        verify >> approve >> switch
    else:
        verify >> switch
    switch >> aggregate
    dag.add_result(aggregate.output)


def collection_rollback_dag(
    dag_id: str = "rollback_collection",
    *,
    on_switch: Callable[[Pointer], None] | None = None,
    default_args: Mapping[str, Any] | None = None,
    **dag_args: Any,
) -> DAG:
    """
    Make a DAG that rolls a switch back: one task, one param.

    :param on_switch: as for :func:`collection_reindex_dag`.
    :param dag_args: further arguments of the DAG.
    """
    params = {
        "alias": Param(
            type="string", minLength=1, title="Alias", description="The name whose last switch is taken back."
        ),
        "collection_conn_id": Param(
            "collections_default", type="string", title="Connection", description="Where the collections are."
        ),
    }
    arguments = {"catchup": False, "tags": ["reindex", "vectors"], "doc_md": ROLLBACK_DOC, **dag_args}
    with DAG(
        dag_id, schedule=None, params=params, default_args={**DEFAULT_ARGS, **(default_args or {})}, **arguments
    ) as dag:
        RollBackOperator(task_id="roll_back", on_switch=on_switch)
    return dag
