"""Authorization: every route asks Airflow's auth manager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, bearer_scheme, resolve_user_from_token
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, status
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials

from airflow_reindex import metadata
from airflow_reindex.monitoring.run_info import RunInfo

Method = Literal["GET", "POST", "PUT"]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)]
#: Error responses of every protected route.
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "Not authenticated"},
    403: {"description": "No right on the DAG"},
    413: {"description": "The body is too large"},
    429: {"description": "Too many requests"},
}


def check_right(user: BaseUser, dag_id: str, method: Method) -> None:
    """
    Require that a user has a right on a DAG's runs.

    :raises HTTPException: 403.
    """
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    allowed = get_auth_manager().is_authorized_dag(
        method=method, access_entity=DagAccessEntity.RUN, details=details, user=user
    )
    if not allowed:
        raise HTTPException(status.HTTP_403_FORBIDDEN, f"you have no right to {method} runs of the DAG '{dag_id}'")


def right_on(dag_id: Callable[[], str], method: Method) -> Callable[..., BaseUser]:
    """
    Create a dependency that returns the user, who must have a right on the DAG's runs.

    :param dag_id: called at each request.
    """

    def check(user: GetUserDep) -> BaseUser:
        check_right(user, dag_id(), method)
        return user

    return check


def readable_dags(user: BaseUser) -> set[str]:
    """The DAGs whose runs a user may see."""
    return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))


def visible_run(dag_id: str, run_id: str, user: GetUserDep) -> RunInfo:
    """
    Dependency: a run that the user may see.

    :raises HTTPException: 401, 403; 404 when there is no such run of this package's jobs.
    """
    check_right(user, dag_id, "GET")
    info = metadata.find_run(dag_id, run_id)
    if info is None or info.kind is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, f"there is no run '{run_id}' of a DAG '{dag_id}' that builds an index."
        )
    return info


VisibleRun = Annotated[RunInfo, Depends(visible_run)]


async def bearer_user(bearer: HTTPAuthorizationCredentials | None) -> BaseUser | None:
    """
    Return the user of a bearer token, ``None`` without one; a browser's cookie is not accepted.

    :raises HTTPException: 401, 403: the token is invalid.
    """
    return await resolve_user_from_token(bearer.credentials) if bearer is not None else None


async def check_right_aside(user: BaseUser, dag_id: str, method: Method) -> None:
    """Call :func:`check_right` from a coroutine."""
    await run_in_threadpool(check_right, user, dag_id, method)
