"""Reindex tasks of EmbeddingStudio's internal API; each is a run of the DAG that moves collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal
from uuid import uuid4

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, HTTPException, Query, status
from pydantic import BaseModel, ConfigDict, Field

from airflow_reindex import config, metadata
from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.monitoring.overview import fresh_report, overview
from airflow_reindex.monitoring.run_info import COLLECTION, RunInfo
from airflow_reindex.plugin.permissions import REFUSALS, right_on
from airflow_reindex.plugin.run_cache import looks
from airflow_reindex.vectors.account import FAILED, read_failed
from airflow_reindex.vectors.model.request import ReindexRequest

PATH = "/reindex-tasks"
#: Failed items shown by default, and at most.
FEW, MANY = 100, 10_000
#: Maximum length of a detail.
_DETAIL = 500
#: Airflow's run ids.
_ID = r"^[A-Za-z0-9_.~:+-]{1,200}$"

Status = Literal["pending", "processing", "done", "canceled", "failed", "refused"]
TaskId = Annotated[str, Query(pattern=_ID, description="The task's id.")]


def dag_id() -> str:
    """The DAG that moves collections."""
    return config.text("collection_dag_id")


Reader = Annotated[BaseUser, Depends(right_on(dag_id, "GET"))]
Runner = Annotated[BaseUser, Depends(right_on(dag_id, "POST"))]
Changer = Annotated[BaseUser, Depends(right_on(dag_id, "PUT"))]


class ModelParams(BaseModel):
    """A model, given by the id of its connection."""

    model_config = ConfigDict(extra="forbid")

    embedding_model_id: str = Field(min_length=1, max_length=200)


class ReindexTaskRunRequest(BaseModel):
    """The models, and whether readers are switched. Further params of the DAG may stand beside these fields."""

    model_config = ConfigDict(populate_by_name=True, extra="allow")

    task_id: str | None = Field(default=None, alias="id", pattern=_ID)
    source: ModelParams
    dest: ModelParams
    deploy_as_blue: bool | None
    wait_on_conflict: bool | None
    params: dict[str, Any] = Field(
        default_factory=dict, description="Further params of the DAG, such as alias or max_failed."
    )


class FailedDataItem(BaseModel):
    """An item that is not in the destination."""

    object_id: str
    payload: dict[str, Any] | None = None
    item_info: dict[str, Any] | None = None
    detail: str
    failure_stage: str


class ReindexTaskResponse(BaseModel):
    """The present state of a task."""

    model_config = ConfigDict(populate_by_name=True)

    task_id: str = Field(serialization_alias="id")
    status: Status
    created_at: str | None
    updated_at: str | None
    progress: float = Field(ge=0)
    detail: str | None = Field(max_length=_DETAIL)
    count: int
    total: int | None
    children: list[str]
    failed_items: list[FailedDataItem]
    deploy_as_blue: bool | None
    wait_on_conflict: bool | None


_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such task"}}
_CONFLICT: dict[int | str, dict[str, Any]] = {409: {"description": "The task's state forbids it"}}
_WRONG: dict[int | str, dict[str, Any]] = {400: {"description": "The request makes no sense, or the DAG is paused"}}

router = APIRouter(prefix=PATH, tags=["Reindex tasks"], responses=REFUSALS)


@router.post("/run", response_model=ReindexTaskResponse, responses={**_WRONG, **_CONFLICT})
def run(body: ReindexTaskRunRequest, user: Runner) -> ReindexTaskResponse:
    """
    Start a task, or return the existing one of that id.

    :raises HTTPException: 400: the request is invalid, or the DAG cannot run.
    """
    task_id = body.task_id or uuid4().hex[:24]
    if metadata.state_of(dag_id(), task_id) is None:
        try:
            metadata.trigger(dag_id(), _conf(body), run_id=task_id, user=user.get_name())
        except ConflictError:
            # An equal request was faster.
            pass
        except RequestError as error:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, str(error)) from error
    return _whole(_info(task_id))


def _conf(body: ReindexTaskRunRequest) -> Mapping[str, Any]:
    fields = {
        "source_embedding_model_id": body.source.embedding_model_id,
        "dest_embedding_model_id": body.dest.embedding_model_id,
        "deploy_as_blue": body.deploy_as_blue,
        "wait_on_conflict": body.wait_on_conflict,
    }
    conf = dict(body.params)
    for name, value in {**(body.model_extra or {}), **fields}.items():
        if name in conf and value is not None and conf[name] != value:
            raise RequestError(f"the request says two things of {name}: {conf[name]!r} in 'params', and {value!r}.")
        if value is not None or name not in conf:
            conf[name] = value
    for name in ("deploy_as_blue", "wait_on_conflict"):
        conf[name] = conf[name] or False
    known = metadata.params_of(dag_id())
    unknown = set(conf) - set(known)
    if known and unknown:
        raise RequestError(f"the DAG '{dag_id()}' has no params {', '.join(sorted(unknown))}.")
    ReindexRequest.parse({**known, **conf})
    return conf


@router.get("/info", response_model=ReindexTaskResponse, responses=_MISSING)
def info(task_id: TaskId, _: Reader, failed_limit: Annotated[int, Query(ge=0, le=MANY)] = FEW) -> ReindexTaskResponse:
    """
    Return a task; 404 when it does not exist.

    :param failed_limit: most failed items to return.
    """
    return _whole(_info(task_id), failed_limit)


@router.get("/list", response_model=list[ReindexTaskResponse])
def tasks(
    _: Reader,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    status: Annotated[Status | None, Query()] = None,
) -> list[ReindexTaskResponse]:
    """
    Return tasks, newest first.

    :param status: only tasks of this status.
    """
    if status is None:
        found, _total = metadata.list_runs([dag_id()], offset=offset, limit=limit)
        return [_response(run_info, looks.listed(run_info)) for run_info in found]
    states = {"pending": ["queued", "success"], "processing": ["running"], "done": ["success"]}.get(status, ["failed"])
    return list(islice(_of_status(status, states), offset, offset + limit))


def _of_status(wanted: str, states: list[str]) -> Any:
    """Airflow's states are coarser than a task's: check each run that may have the wanted status."""
    step, offset = 100, 0
    while True:
        found, total = metadata.list_runs([dag_id()], states, offset=offset, limit=step)
        for run_info in found:
            response = _response(run_info, looks.listed(run_info))
            if response.status == wanted:
                yield response
        offset += step
        if offset >= total:
            return


@router.put("/restart", response_model=ReindexTaskResponse, responses={**_MISSING, **_WRONG})
def restart(task_id: TaskId, _: Changer) -> ReindexTaskResponse:
    """Repeat what has failed of an ended task; does nothing while it runs. 404 when it does not exist."""
    run_info = _info(task_id)
    if not run_info.live:
        try:
            metadata.resume(run_info)
        except RequestError as error:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, str(error)) from error
    return _whole(_info(task_id))


@router.put("/cancel", response_model=ReindexTaskResponse, responses={**_MISSING, **_WRONG})
def cancel(task_id: TaskId, user: Changer) -> ReindexTaskResponse:
    """Cancel a task and its children; does nothing when it has ended. 404 when it does not exist."""
    run_info = _info(task_id)
    if run_info.live:
        try:
            metadata.cancel(run_info, user.get_name())
        except RequestError as error:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, str(error)) from error
        # A page may have seen it failed, before it was noted who canceled it.
        looks.forget(run_info)
    return _whole(_info(task_id))


def _info(task_id: str) -> RunInfo:
    run_info = metadata.find_run(dag_id(), task_id)
    if run_info is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no reindex task '{task_id}'")
    return run_info


def _whole(run_info: RunInfo, failed_limit: int = FEW) -> ReindexTaskResponse:
    """Build the response of a task with its failed items."""
    snapshot = looks.at(run_info)[1]
    items: list[FailedDataItem] = []
    report = fresh_report(snapshot, run_info)
    # A report without failed items may be beside the list of an earlier attempt.
    if failed_limit and run_info.kind == COLLECTION and report is not None and report["failed"]:
        listed = read_failed(run_folder(run_info.dag_id, run_info.run_id), FAILED)
        items = [
            FailedDataItem(
                object_id=item.object_id,
                item_info=item.item_info if isinstance(item.item_info, dict) else None,
                detail=item.detail,
                failure_stage=item.failure_stage,
            )
            for item in islice(listed, failed_limit)
        ]
    return _response(run_info, overview(snapshot, run_info), items)


def _response(
    run_info: RunInfo, seen: Mapping[str, Any], failed_items: Sequence[FailedDataItem] = ()
) -> ReindexTaskResponse:
    flags = {name: run_info.conf.get(name) for name in ("deploy_as_blue", "wait_on_conflict")}
    return ReindexTaskResponse(
        task_id=run_info.run_id,
        status=seen["status"],
        created_at=run_info.queued_at or run_info.started_at,
        updated_at=seen["updated_at"],
        progress=min(1.0, seen["progress"] or 0.0),
        detail=seen["detail"][-_DETAIL:] or None,
        count=seen["count"],
        total=seen["total"],
        children=[f"reindex[{index}]" for index in sorted(run_info.states("reindex")) if index >= 0],
        failed_items=list(failed_items),
        **flags,
    )
