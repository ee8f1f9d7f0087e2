"""What the package adds to Airflow's API server."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_reindex.links import PREFIX
from airflow_reindex.plugin.fair_share import FairShare

if TYPE_CHECKING:
    from fastapi import FastAPI


@cache
def _app() -> FastAPI:
    # Every Airflow process loads plugins, but only the API server needs FastAPI and the auth manager.
    from airflow_reindex.plugin.reports import create_app

    return create_app()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """
    The package's ASGI application, made at its first request.

    :param scope: as ASGI defines it.
    :param receive: as ASGI defines it.
    :param send: as ASGI defines it.
    """
    await _app()(scope, receive, send)


class ReindexPlugin(AirflowPlugin):
    """Serves the reports of runs, where the extra links of the tasks lead; shares slots between runs."""

    name = "airflow_reindex"
    fastapi_apps = [{"app": application, "url_prefix": PREFIX, "name": "airflow-reindex"}]  # noqa: RUF012
    priority_weight_strategies = [FairShare]  # noqa: RUF012
