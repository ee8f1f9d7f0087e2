"""The report of a run over HTTP, for users who may see the run."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, status

from airflow_reindex import __version__
from airflow_reindex.config import run_folder
from airflow_reindex.director.records import REPORT


def create_app() -> FastAPI:
    """
    Make the application.

    :returns: an application whose every route asks Airflow's auth manager; its interactive documentation is off.
    """
    app = FastAPI(title="airflow-reindex", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route(
        "/report/{dag_id}/{run_id}",
        report,
        methods=["GET"],
        dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))],
    )
    return app


def report(dag_id: str, run_id: str) -> Any:
    """
    Read a run's report.

    :param dag_id: its DAG.
    :param run_id: its run.
    :returns: the report.
    :raises HTTPException: 404 when there is none yet.
    """
    found = run_folder(dag_id, run_id).read_json(REPORT)
    if found is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            f"run '{run_id}' of DAG '{dag_id}' has no report yet: its task 'aggregate' writes it at the end.",
        )
    return found
