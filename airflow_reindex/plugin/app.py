"""The mounted applications: pages, reports and both contracts."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from airflow_reindex import __version__, config
from airflow_reindex.operators.links import INTERNAL
from airflow_reindex.plugin import pages, reports
from airflow_reindex.plugin.auth_middleware import Guard
from airflow_reindex.plugin.contracts import qserv, reindex_tasks
from airflow_reindex.plugin.error_responses import refusal
from airflow_reindex.plugin.limits import Limits


def create_app() -> FastAPI:
    """Create the application; every route, its own description included, asks Airflow's auth manager."""
    app = _bare()
    for router in (reports.router, pages.router, qserv.router):
        app.include_router(router)
    app.include_router(reindex_tasks.router, prefix=INTERNAL)
    _describe(app)
    return app


def create_task_app() -> FastAPI:
    """Create the application with the reindex tasks alone, for the address that EmbeddingStudio's clients know."""
    app = _bare()
    app.include_router(reindex_tasks.router)
    _describe(app)
    return app


def _bare() -> FastAPI:
    app = FastAPI(title="airflow-reindex", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(Guard, open_to_keys=qserv.ROUTES)
    # Outside of the auth middleware, so that attempts to guess keys or tokens are limited, too.
    app.add_middleware(
        Limits,
        requests_a_minute=config.integer("api_requests_per_minute"),
        body_bytes=config.integer("api_body_bytes"),
    )
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    return refusal(request, error)


def _describe(app: FastAPI) -> None:
    def openapi(_: GetUserDep) -> dict[str, Any]:
        return app.openapi()

    app.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
