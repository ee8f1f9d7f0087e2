"""Qserv's service that builds director indexes, for its clients, which need not know DAGs."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.sdk.configuration import conf
from fastapi import APIRouter, Request, Response, status
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError

from airflow_reindex import config, metadata
from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.director.report import ERRORS
from airflow_reindex.hooks.connections import find_connection
from airflow_reindex.monitoring.overview import fresh_report, status_of
from airflow_reindex.plugin.contracts.qserv_protocol import (
    VERSION,
    ContractError,
    IndexCall,
    KeyRefusedError,
    answer,
    begun,
    check_key,
    check_version,
    envelope,
    read_body,
    read_index_call,
)
from airflow_reindex.plugin.permissions import REFUSALS, Bearer, Method, bearer_user, check_right_aside
from airflow_reindex.plugin.run_cache import looks

log = logging.getLogger(__name__)

router = APIRouter(tags=["Qserv"])
VERSION_PATH, BUILD_PATH = "/meta/version", "/ingest/index/secondary"
#: Routes that accept a key.
ROUTES = (("GET", VERSION_PATH), ("POST", BUILD_PATH))

#: Seconds between two polls of a run by a waiting answer, and between two blanks sent to keep the connection open.
LOOK_SECONDS, ALIVE_SECONDS = 1.0, 15.0
#: Seconds to keep waiting while nothing can be read of the run.
DATABASE_WAIT_SECONDS = 600.0
#: The oldest version of the services that do not build.
_LEAST_META = 12
#: Most attempts to trigger a run when another process is faster.
_TRIES = 5

_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["success", "error", "error_ext", "warning"],
    "properties": {
        "success": {"type": "integer", "enum": [0, 1]},
        "error": {"type": "string"},
        "error_ext": {"type": "object"},
        "warning": {"type": "string"},
        "run_id": {"type": "string", "description": "With wait=0: the run that builds the index."},
    },
}
_NUMBER = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_REQUEST = {
    "type": "object",
    "required": ["database", "director_table"],
    "properties": {
        "database": {"type": "string"},
        "director_table": {"type": "string"},
        "rebuild": {"type": "integer", "default": 0},
        "local": {"type": "integer", "default": 0},
        "unique_primary_key": {"type": "integer"},
        "director_key": {"type": "string"},
        "keep_previous": {"type": "integer", "default": 0},
        "force_takeover": {"type": "integer", "default": 0},
        "dry_run": {"type": "integer", "default": 0, "description": "1: only check; the answer warns of it."},
        "allow_unlisted_chunks": {"type": "integer", "default": 0},
        "changed_chunks": {"type": "string", "enum": ["warn", "fail", "reread"], "default": "warn"},
        "max_rows_per_second": {"type": "integer", "default": 0},
        "max_connections": {"type": "integer", "default": 0},
        "version": _NUMBER,
        "wait": {"type": "integer", "default": 1, "description": "0: answer at once with the run's id."},
        "auth_key": {"type": "string"},
        "admin_auth_key": {"type": "string"},
        "allow_for_published": {"type": "integer", "deprecated": True},
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The service's answer, errors too", "content": {"application/json": {"schema": _ENVELOPE}}},
    **REFUSALS,
}
_VERSION_QUERY = {"name": "version", "in": "query", "required": False, "schema": _NUMBER}


def _body_doc(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "parameters": [_VERSION_QUERY],
        "requestBody": {"required": False, "content": {"application/json": {"schema": dict(schema)}}},
    }


def dag_id() -> str:
    """The DAG that builds director indexes."""
    return config.text("director_dag_id")


@router.get(VERSION_PATH, responses=_ANSWERS, openapi_extra={"parameters": [_VERSION_QUERY]})
async def version(request: Request, bearer: Bearer) -> Response:
    """
    Return the service's kind and API version.

    :param request: may have a key in its body.
    :param bearer: an Airflow user's token.
    """
    try:
        body = await _authorized(request, bearer, "GET")
        warning = check_version(body.get("version", request.query_params.get("version")), _LEAST_META)
    except KeyRefusedError as error:
        return JSONResponse(envelope(str(error)), status.HTTP_401_UNAUTHORIZED)
    except ContractError as error:
        return JSONResponse(envelope(str(error), error.ext))
    about: dict[str, Any] = {
        "kind": "replication-controller",
        "id": "airflow-reindex",
        "instance_id": await run_in_threadpool(config.deployment),
        "version": VERSION,
        # This service has no such database.
        "database_schema_version": 0,
    }
    return JSONResponse(envelope(warning=warning, **about))


@router.post(BUILD_PATH, responses=_ANSWERS, openapi_extra=_body_doc(_REQUEST))
async def build(request: Request, bearer: Bearer) -> Response:
    """
    Build or rebuild a director index, and answer when that has ended.

    :param bearer: an Airflow user's token; without it the body must have a key.
    """
    try:
        body = await _authorized(request, bearer, "POST")
        known = await run_in_threadpool(metadata.params_of, dag_id())
        local = config.integer("qserv_api_local", least=0)
        call = read_index_call(body, request.query_params.get("version"), local, known)
        run_id = await run_in_threadpool(start, call)
    except KeyRefusedError as error:
        return JSONResponse(envelope(str(error)), status.HTTP_401_UNAUTHORIZED)
    except ContractError as error:
        return JSONResponse(envelope(str(error), error.ext))
    except RequestError as error:
        return JSONResponse(envelope(f"operation failed due to: {error}"))
    if not call.wait:
        return JSONResponse(begun(call, run_id, dag_id()))
    return StreamingResponse(_answer(call, run_id), media_type="application/json")


async def _authorized(request: Request, bearer: Any, method: Method) -> dict[str, Any]:
    """Return the request's body if its sender is authorized."""
    user = await bearer_user(bearer)
    text = await request.body()
    # Qserv's service does not read a body of another type.
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    if user is not None:
        await check_right_aside(user, dag_id(), method)
        return read_body(text if is_json else b"")
    try:
        body = read_body(text if is_json else b"")
    except ContractError:
        # An unauthenticated sender learns nothing but that.
        body = {}
    await run_in_threadpool(_check_key, body)
    return body


def _check_key(body: Mapping[str, Any]) -> None:
    name = config.text("qserv_api_conn_id")
    try:
        connection = find_connection(name)
    except RequestError:
        connection = None
    key = (connection.password if connection else None) or ""
    admin = str(connection.extra_dejson.get("admin_auth_key") or "") if connection else ""
    if not key and not admin:
        raise KeyRefusedError(
            "failed to pass authorization requirements, ex: this service has no authorization key. Send the bearer "
            f"token of an Airflow user, or make an Airflow connection '{name}' whose password is the key "
            "(and whose extra may have an 'admin_auth_key')."
        )
    check_key(body, key, admin)


def start(call: IndexCall) -> str:
    """
    Trigger the request's run, or join the unfinished one of an equal request; return the run's id.

    :raises RequestError: the DAG cannot be triggered.
    """
    for attempt in range(1, _TRIES + 1):
        live, newest = metadata.runs_like(dag_id(), call.run_prefix)
        if live is not None:
            return live
        number = call.number_of(newest or "") + attempt
        try:
            # Simultaneous equal requests compute the same id, and only one of them can have it.
            return metadata.trigger(dag_id(), call.conf, run_id=f"{call.run_prefix}{number}", user="qserv")
        except ConflictError:
            continue
    raise RequestError("other requests for this index were faster, again and again: send it once more.")


async def _answer(call: IndexCall, run_id: str) -> AsyncIterator[bytes]:
    """JSON may begin with white space, which keeps the connection open until the answer is known."""
    said = seen = time.monotonic()
    yield b"\n"
    while True:
        try:
            found = await run_in_threadpool(outcome, call, run_id)
            seen = time.monotonic()
        except (SQLAlchemyError, OSError) as error:
            # A short outage of the database or the staging folder must not waste hours of waiting.
            log.warning("what became of run %s cannot be read: %s", run_id, error)
            found = _unknown(call, run_id, error) if time.monotonic() - seen > DATABASE_WAIT_SECONDS else None
        if found is not None:
            yield json.dumps(found).encode()
            return
        if time.monotonic() - said >= ALIVE_SECONDS:
            said = time.monotonic()
            yield b"\n"
        await asyncio.sleep(LOOK_SECONDS)


def _unknown(call: IndexCall, run_id: str, error: Exception) -> dict[str, Any]:
    why = (
        f"what became of run '{run_id}' could not be read for {DATABASE_WAIT_SECONDS:.0f} s "
        f"({type(error).__name__}). The build itself may go on: look at the run, or send the same request again, which "
        "joins a build that goes on."
    )
    return envelope(f"index creation failed: {why}", warning=call.warning)


def outcome(call: IndexCall, run_id: str) -> dict[str, Any] | None:
    """The answer for a run that has ended; ``None`` before."""
    if metadata.state_of(dag_id(), run_id) in metadata.LIVE:
        return None
    info = metadata.find_run(dag_id(), run_id)
    if info is None:
        return envelope("index creation failed: its run was deleted from Airflow", warning=call.warning)
    look, snapshot = looks.at(info)
    found, why = status_of(snapshot, info)
    report = fresh_report(snapshot, info)
    failed = (look.folder.read_json(ERRORS) or report["error_ext"]) if report is not None else {}
    return answer(call, found.value, why, failed, flat=conf.getboolean("reindex", "qserv_api_flat_errors"))
