"""The page of a run, the list of runs, and their data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import quote

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response, status
from fastapi.responses import StreamingResponse

from airflow_reindex import metadata
from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.task_records import now
from airflow_reindex.monitoring.failures import Filter
from airflow_reindex.monitoring.overview import overview
from airflow_reindex.monitoring.phases import pieces
from airflow_reindex.monitoring.run_info import COLLECTION, RunInfo
from airflow_reindex.operators.links import root, run_path
from airflow_reindex.plugin.permissions import REFUSALS, VisibleRun, check_right, readable_dags
from airflow_reindex.plugin.run_cache import looks

router = APIRouter(tags=["Runs"], responses=REFUSALS)

_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such run"}}
_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=1000)]


def _file(name: str) -> Response:
    kind = _TYPES.get(name.rpartition(".")[2])
    # Looked up by name among existing files: no other path can be requested.
    found = {entry.name: entry for entry in files("airflow_reindex.plugin").joinpath("static").iterdir()}
    if kind is None or name not in found:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no file '{name}'")
    return Response(found[name].read_bytes(), media_type=f"{kind}; charset=utf-8")


@router.get("/static/{name}", responses=_MISSING, include_in_schema=False)
def static(name: str, _: GetUserDep) -> Response:
    """A static file of the pages."""
    return _file(name)


@router.get("/page", include_in_schema=False)
def runs_page(_: GetUserDep) -> Response:
    """The page that lists runs."""
    return _file("runs.html")


@router.get("/page/{dag_id}/{run_id}", include_in_schema=False)
def run_page(_: VisibleRun) -> Response:
    """The page of a run."""
    return _file("run.html")


@router.get("/replay/{dag_id}/{run_id}", include_in_schema=False)
def replay_page(_: VisibleRun) -> Response:
    """The page that asks whether to replay a run's failed items."""
    return _file("replay.html")


def page_of(info: RunInfo) -> str:
    """Return the URL of a run's page."""
    return root() + run_path("page", info.dag_id, info.run_id)


@router.get("/runs")
def runs(
    user: GetUserDep, offset: Offset = 0, limit: Annotated[int, Query(ge=1, le=100)] = 50, dag_id: str = ""
) -> dict[str, Any]:
    """The runs of both jobs that the user may see, newest first, as ``total`` and ``runs``."""
    dags = readable_dags(user)
    found, total = metadata.list_runs(dags & {dag_id} if dag_id else dags, offset=offset, limit=limit)
    return {"total": total, "dags": sorted(dags & metadata.reindex_dags()), "runs": [_row(info) for info in found]}


def _row(info: RunInfo) -> dict[str, Any]:
    seen = looks.listed(info)
    names = ("dag_id", "run_id", "kind", "status", "started_at", "ended_at", "source", "dest", "progress")
    return {**{name: seen[name] for name in names}, "page": page_of(info)}


@router.get("/run/{dag_id}/{run_id}", responses=_MISSING)
def run(info: VisibleRun) -> dict[str, Any]:
    """The overview of a run."""
    seen = overview(looks.at(info)[1], info)
    dag, name = info.dag_id, info.run_id
    replay = info.kind == COLLECTION and not info.live and seen["failed"]
    links = {
        "grid": f"{root()}/dags/{quote(dag, safe='')}/runs/{quote(name, safe='')}",
        "report": root() + run_path("report", dag, name) if looks.at(info)[1].report else None,
        "replay": root() + run_path("replay", dag, name) if replay else None,
    }
    return {**seen, "links": links}


@router.get("/run/{dag_id}/{run_id}/chunks", responses=_MISSING)
def chunks(info: VisibleRun) -> dict[str, Any]:
    """The chunks of a build in columns; 404 when there are none, or none planned yet."""
    found = looks.at(info)[1].chunks
    if found is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"run '{info.run_id}' has no chunks (yet).")
    return found.shown()


@router.get("/run/{dag_id}/{run_id}/ranges", responses=_MISSING)
def ranges(info: VisibleRun, offset: Offset = 0, limit: Limit = 100) -> dict[str, Any]:
    """The key ranges or windows of a run, as ``total`` and ``rows``."""
    snapshot = looks.at(info)[1]
    wanted = replace(snapshot, pieces=snapshot.pieces[offset : offset + limit])
    return {"total": len(snapshot.pieces), "rows": pieces(wanted, info, now())}


def _filter(
    q: Annotated[str, Query(max_length=200)] = "",
    kind: Annotated[str, Query(max_length=2000)] = "",
    worker: Annotated[str, Query(max_length=2000)] = "",
    sort: Literal["table", "worker", "chunk", "kind", "message"] = "chunk",
    order: Literal["asc", "desc"] = "asc",
) -> Filter:
    return Filter(text=q, kind=kind, worker=worker, sort=sort, descending=order == "desc")


Wanted = Annotated[Filter, Depends(_filter)]


@router.get("/run/{dag_id}/{run_id}/failures", responses=_MISSING)
def failures(info: VisibleRun, wanted: Wanted, offset: Offset = 0, limit: Limit = 100) -> dict[str, Any]:
    """
    One page of what has failed in a run.

    :returns: ``total``, ``matched``, ``columns``, ``kinds``, ``workers`` and ``rows``.
    """
    return looks.failures(info).page(wanted, offset, limit)


@router.get(
    "/run/{dag_id}/{run_id}/failures.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "CSV"}, **_MISSING},
)
def failures_csv(info: VisibleRun, wanted: Wanted) -> StreamingResponse:
    """What has failed in a run, as CSV."""
    lines: Iterator[str] = looks.failures(info).csv(wanted)
    heading = {"Content-Disposition": f"attachment; filename*=UTF-8''failures-{quote(info.run_id, safe='')}.csv"}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=heading)


@router.post("/run/{dag_id}/{run_id}/replay", responses={**_MISSING, 400: {"description": "Nothing to replay"}})
def replay(info: VisibleRun, user: GetUserDep, x_requested_with: Annotated[str, Header()]) -> dict[str, str]:
    """
    Trigger a run that retries the failed items of another one.

    :param x_requested_with: any text; pages of other sites cannot send this header.
    :returns: ``run_id`` and ``page`` of the new run.
    :raises HTTPException: 400: the run is not of a collection, or has not ended.
    """
    del x_requested_with
    check_right(user, info.dag_id, "POST")
    if info.kind != COLLECTION or info.live:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, f"run '{info.run_id}' has no failed items to replay.")
    try:
        run_id = metadata.trigger(
            info.dag_id, {**info.conf, "only_failed_of": info.run_id}, user=user.get_name()
        )  # fmt: skip
    except RequestError as error:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, str(error)) from error
    return {"run_id": run_id, "page": page_of(replace(info, run_id=run_id))}
