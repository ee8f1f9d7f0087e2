"""Extension of Airflow's API server."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_reindex.operators.links import INTERNAL, PREFIX, root
from airflow_reindex.plugin.fair_share import FairShare


def _made_once(factory: str) -> Any:
    """An ASGI application that is created at its first request."""

    # Every Airflow process loads plugins, but only the API server needs FastAPI and the auth manager.
    @cache
    def made() -> Any:
        return getattr(import_module("airflow_reindex.plugin.app"), factory)()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await made()(scope, receive, send)

    return application


class ReindexPlugin(AirflowPlugin):
    """Serves pages, reports and the contracts of both original systems, and shares slots between runs."""

    name = "airflow_reindex"
    fastapi_apps = [  # noqa: RUF012
        {"app": _made_once("create_app"), "url_prefix": PREFIX, "name": "airflow-reindex"},
        {"app": _made_once("create_task_app"), "url_prefix": INTERNAL, "name": "airflow-reindex tasks"},
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Reindex",
            "href": f"{root()}{PREFIX}/page/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "reindex",
        },
        {
            "name": "Reindex runs",
            "href": f"{root()}{PREFIX}/page",
            "destination": "nav",
            "url_route": "reindex-runs",
            "category": "browse",
        },
    ]
    priority_weight_strategies = [FairShare]  # noqa: RUF012
