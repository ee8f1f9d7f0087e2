"""Operator that changes the speed limits of a running build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_reindex.director.coordination import claim
from airflow_reindex.director.model.limits import Limits
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import session
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.operators.base import ReindexOperator
from airflow_reindex.operators.director import server_errors

if TYPE_CHECKING:
    from airflow.sdk import Context


class ThrottleOperator(ReindexOperator):
    """Change the limits of an index's build; its tasks, in whatever run, apply them within seconds."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Set or lift the limits, and return the run that builds the index with its limits."""
        params = context["params"]
        with server_errors():
            limits = Limits.parse(params)
            request = BuildRequest.parse(params)
            servers = QservHook(params.get("qserv_conn_id") or QservHook.default_conn_name).servers
            with session(servers.czar) as czar:
                owner = claim.set_limits(czar, servers.tables(request), limits)
        self.log.info(
            "%s: at most %s rows a second, %s connections",
            owner,
            limits.rows_per_second or "any number of",
            limits.connections or "any number of",
        )
        return {**vars(limits), "dag_id": owner.dag_id, "run_id": owner.run_id}
