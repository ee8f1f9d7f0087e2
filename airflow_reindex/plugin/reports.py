"""The report of a run over HTTP, for users who may see the run."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, HTTPException, status

from airflow_reindex import metadata
from airflow_reindex.core.task_records import REPORT
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.plugin.permissions import REFUSALS

router = APIRouter(
    tags=["Reports"],
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))],
    responses={**REFUSALS, 404: {"description": "No report (yet)"}},
)


@router.get("/report/{dag_id}/{run_id}")
def report(dag_id: str, run_id: str) -> dict[str, Any]:
    """Return a run's report; 404 when there is none yet."""
    found, info = run_folder(dag_id, run_id).read_json(REPORT), metadata.find_run(dag_id, run_id)
    # A report of an earlier attempt does not describe the current one.
    if found is None or (info is not None and info.started_at and found["updated_at"] < info.started_at):
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            f"run '{run_id}' of DAG '{dag_id}' has no report yet: its task 'aggregate' writes it at the end.",
        )
    return dict(found)


@router.get("/index/{dag_id}/{run_id}")
def index(dag_id: str, run_id: str) -> dict[str, Any]:
    """
    The index that a run built, and whether it is published; 404 when there is no report yet.

    :returns: connection, database, table, columns, rows, status; how to roll back where the previous index is kept.
    """
    found = report(dag_id, run_id)
    notes = found["notes"]
    described = notes.get("index", {"table": found["dest"] or None})
    kept = {name: notes[name] for name in ("previous", "roll_back") if name in notes}
    return {**described, "status": found["status"], "rows": found["rows"], "updated_at": found["updated_at"], **kept}


@router.get("/collection/{dag_id}/{run_id}")
def collection(dag_id: str, run_id: str) -> dict[str, Any]:
    """
    The collection that a run built, and whether readers follow it; 404 when there is no report yet.

    :returns: connection, source, destination, dimensions, metric, items and status; the switch, if any.
    """
    found = report(dag_id, run_id)
    notes = found["notes"]
    described = notes.get("collection", {"source": found["source"], "dest": found["dest"]})
    switched = {name: notes[name] for name in ("switch", "recall_at_10", "left_alone") if name in notes}
    state = {"status": found["status"], "items": found["rows"], "updated_at": found["updated_at"]}
    return {**described, **state, **switched}
