"""Operators of a DAG that starts the jobs for a whole catalog, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.model.catalog import director_tables
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import session
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.operators.base import ReindexOperator, airflow_errors
from airflow_reindex.operators.director import server_errors
from airflow_reindex.vectors.model.request import ReindexRequest

if TYPE_CHECKING:
    from airflow.sdk import Context


class TablesOperator(ReindexOperator):
    """List the director tables to build."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return the conf of a build's run for each table, in the order of the params."""
        params = context["params"]
        with server_errors():
            common = {"rebuild": 1, **_object(params["build"], "build"), "database": params["database"]}
            names = _list(params["director_tables"], "director_tables") or self._all(params, common)
            found = [{**common, "director_table": name} for name in names]
            for conf in found:
                BuildRequest.parse(conf)
        return found

    def _all(self, params: Mapping[str, Any], common: Mapping[str, Any]) -> list[str]:
        servers = QservHook(common.get("qserv_conn_id") or QservHook.default_conn_name).servers
        if servers.catalog == "scan":
            raise RequestError("the qserv connection's catalog=scan knows no director tables: name them.")
        with session(servers.czar) as czar:
            return director_tables(czar, servers.replication_schema, str(params["database"]))


class MovesOperator(ReindexOperator):
    """List the collections to move."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return the conf of a reindex's run for each collection, in the order of the params."""
        with airflow_errors():
            found = [_object(one, "collections") for one in _list(context["params"]["collections"], "collections")]
            for conf in found:
                ReindexRequest.parse(conf)
        return found


class SummaryOperator(ReindexOperator):
    """
    Summarize the runs, and fail when one of them is not done.

    It needs the trigger rule ``all_done``: it must also run when everything before it failed.

    :param steps: the mapped tasks that started runs, by the task that listed them.
    """

    def __init__(self, *, steps: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Return for each list its entries with ``conf``, ``run_id`` and ``state``; in XCom even when the task fails.

        :raises AirflowFailException: a run is not done, or a list was not made.
        """
        ti, states = context["ti"], self.states_now(context)
        found: dict[str, Any] = {}
        for listed, started in self.steps.items():
            confs = ti.xcom_pull(task_ids=listed) or []
            found[listed] = [
                {
                    "conf": conf,
                    "run_id": f"{context['run_id']}__{started}_{number}",
                    "state": states.get(f"{started}_{number}") or "not started",
                }
                for number, conf in enumerate(confs)
            ]
        bad = [
            f"{_name(one['conf'])}: {one['state']}" for some in found.values() for one in some
            if one["state"] != "success"
        ]  # fmt: skip
        bad += [f"the task {listed}: {states.get(listed)}" for listed in self.steps if states.get(listed) != "success"]
        if bad:
            ti.xcom_push(key="return_value", value=found)
            raise AirflowFailException(
                f"{len(bad)} not done: {', '.join(bad)}. Clear the failed tasks, and only these are done again."
            )
        return found


def _name(conf: Mapping[str, Any]) -> str:
    if "director_table" in conf:
        return f"{conf['database']}.{conf['director_table']}"
    return f"{conf['source_embedding_model_id']} -> {conf['dest_embedding_model_id']}"


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise RequestError(f"the parameter {name} takes a list, not {type(value).__name__}.")
    return list(value or [])


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise RequestError(f"the parameter {name} takes JSON objects, not {type(value).__name__}.")
    return dict(value or {})
