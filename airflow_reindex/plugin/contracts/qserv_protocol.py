"""
The contract of Qserv's service that builds director indexes: requests, versions, answers and their texts.

The source of the rules is Qserv's Master Replication Controller, REST API version 55: the page "Director Index
Management" of its documentation, and what its service answers.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_reindex.core.failures import Code, Reason, ReindexError, RequestError
from airflow_reindex.core.params import flag
from airflow_reindex.director.model.request import BuildRequest

#: The version of the API that is served, and the oldest one whose requests this service understands.
VERSION, MIN_VERSION = 55, 22
NO_VERSION = "No version number was provided in the request."
_OBSOLETE = {"allow_for_published": 22, "local": 20}
#: What the service itself reads, params of every run, and all params of a build.
_SERVICE = frozenset({"version", "wait", "auth_key", "admin_auth_key", "allow_for_published"})
_ALWAYS = ("database", "director_table", "rebuild", "local")
_PARAMS = frozenset(BuildRequest(database="d", director_table="t").as_params())
#: How many unknown fields a warning names.
_NAMED = 20
NOT_BUILT = "dry_run: nothing was built"


class ContractError(ReindexError):
    """
    A request that the service answers with an error of its own.

    :param error: the error's text.
    :param ext: what belongs into ``error_ext``.
    """

    def __init__(self, error: str, ext: Mapping[str, Any] | None = None) -> None:
        super().__init__(error)
        self.ext = dict(ext or {})


class KeyRefusedError(ReindexError):
    """The request has no authorization key, or a wrong one."""


@dataclass(frozen=True, kw_only=True)
class IndexCall:
    """
    A request to build an index.

    :param conf: params of the DAG run.
    :param wait: whether to answer at the build's end.
    :param warning: what the answer has to warn of.
    """

    conf: Mapping[str, Any]
    wait: bool
    warning: str

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be built."""
        return bool(self.conf.get("dry_run"))

    @property
    def run_prefix(self) -> str:
        """What the ids of runs for equal requests begin with."""
        digest = hashlib.sha256(json.dumps(self.conf, sort_keys=True).encode()).hexdigest()[:16]
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{self.conf['database']}.{self.conf['director_table']}")
        return f"qserv__{name}__{digest}__"

    def number_of(self, run_id: str) -> int:
        """
        Which of the runs for equal requests a run is.

        :param run_id: its id.
        :returns: its number; 0 for an id that somebody else has made.
        """
        text = run_id.removeprefix(self.run_prefix)
        return int(text) if text.isdecimal() and len(text) < 10 else 0


def envelope(error: str = "", ext: Mapping[str, Any] | None = None, warning: str = "", **more: Any) -> dict[str, Any]:
    """
    What every answer carries.

    :param error: empty when all is well.
    :param ext: ``error_ext``.
    :param warning: warnings, joined by ``"; "``.
    :param more: attributes of the service.
    :returns: the answer.
    """
    return {**more, "success": int(not error), "error": error, "error_ext": dict(ext or {}), "warning": warning}


def read_body(text: bytes) -> dict[str, Any]:
    """
    Read the body of a request.

    :param text: the body.
    :returns: its members; none for an empty body.
    :raises ContractError: it is no JSON object.
    """
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ContractError(
            "invalid parameters of the request, ex: invalid format of the request body. A simple JSON object was "
            "expected"
        )
    return value


def check_key(body: Mapping[str, Any], key: str, admin_key: str) -> None:
    """
    Compare the authorization key of a request with the configured one, in constant time.

    :param body: the request.
    :param key: the configured key; empty when there is none.
    :param admin_key: the administrator's; empty when there is none.
    :raises KeyRefusedError: the request has none, or another one.
    """
    prefix = "failed to pass authorization requirements, ex: "
    name = "admin_auth_key" if "admin_auth_key" in body else "auth_key"
    if name not in body:
        raise KeyRefusedError(
            f"{prefix}none of the authorization keys 'auth_key' or 'admin_auth_key' was found in the request. Please, "
            "provide one."
        )
    known, given = (admin_key if name == "admin_auth_key" else key), body[name]
    # Compared in any case, so that the time tells nothing.
    equal = hmac.compare_digest(str(given).encode("utf-8", "replace"), known.encode("utf-8", "replace"))
    if not (equal and known and isinstance(given, str)):
        whose = "administrator's " if name == "admin_auth_key" else ""
        raise KeyRefusedError(
            f"{prefix}{whose}authorization key '{name}' in the request doesn't match the one in server configuration"
        )


def check_version(value: object, least: int = MIN_VERSION) -> str:
    """
    Check the version of the API that a client asks for.

    :param value: a number or a text that is one; ``None`` or 0 for none.
    :param least: the oldest version that the service understands.
    :returns: a warning; empty when there is nothing to warn of.
    :raises ContractError: the version is no number, or not served.
    """
    supported = {"min_version": least, "max_version": VERSION}
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value, re.ASCII):
        number = int(value)
    elif value is not None:
        raise ContractError("The optional parameter version is not a number.", supported)
    if not number:
        return NO_VERSION
    if not least <= number <= VERSION:
        raise ContractError(
            f"The requested version {number} of the API is not in the range supported by the service.", supported
        )
    return ""


def read_index_call(
    body: Mapping[str, Any], version: object, local: int, known: Mapping[str, Any] | None = None
) -> IndexCall:
    """
    Read a request to build an index. The DAG's own params are heeded, too, except for those that name connections.

    :param body: the request.
    :param version: the version that the request's query has; the body's counts more.
    :param local: what ``local`` is in requests that do not say.
    :param known: the params of the DAG with their defaults; nothing when they are not known.
    :returns: the call.
    :raises ContractError: the version is not served, a parameter is missing, makes no sense, or cannot be set.
    """
    known = known or {}
    warnings = [check_version(body.get("version", version))]
    try:
        for name in ("database", "director_table"):
            if name not in body:
                raise RequestError(
                    f"RequestBodyJSON::required<T>[static] required parameter {name} is missing in the request body"
                )
            if not isinstance(body[name], str):
                raise RequestError(f"the parameter {name} takes a string, not {body[name]!r:.100}")
        if not body["director_table"]:
            raise RequestError("DatabaseInfo::findTable the table name is empty.")
        params = {"rebuild": 0, "local": local, **{name: body[name] for name in body if name in _PARAMS}}
        request = BuildRequest.parse(params)
        conf = {**_conf(request, body, known), **_others(body, known)}
        wait = flag(body.get("wait", 1), "wait")
    except RequestError as error:
        raise ContractError(f"invalid parameters of the request, ex: {error}") from error
    warnings += [
        f"Option '{name}' is obsolete as of the version {since} of the API."
        for name, since in _OBSOLETE.items()
        if name in body
    ]
    unknown = [name for name in body if name not in _SERVICE | _PARAMS | known.keys()]
    warnings += [f"Option {name!r:.100} is unknown to this service, and was ignored." for name in unknown[:_NAMED]]
    if len(unknown) > _NAMED:
        warnings.append(f"So were {len(unknown) - _NAMED} more options.")
    return IndexCall(conf=conf, wait=wait, warning=_joined(*warnings))


def _conf(request: BuildRequest, body: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The params of the run that build an index. What the DAG does anyway is left out, so that equal requests are."""
    asked = request.as_params()
    names = {"database": request.database, "director_table": request.director_table}
    try:
        usual = BuildRequest.parse({**{n: v for n, v in known.items() if n in _PARAMS}, **names}).as_params()
    except RequestError:
        usual = {}
    result = {name: asked[name] for name in _ALWAYS}
    for name in sorted(_PARAMS & body.keys() - result.keys()):
        if known and name not in known and name != "unique_primary_key":
            raise RequestError(f"the DAG that builds indexes has no param {name}")
        default = usual.get(name, "unknown") if known else "unknown"
        if asked[name] is not None and (asked[name] != default or name == "unique_primary_key"):
            result[name] = asked[name]
    # Also where it is the DAG's default: the answer tells whether it was asked for.
    if request.dry_run:
        result["dry_run"] = 1
    return result


def _others(body: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Params of the DAG that are none of a build; those that name connections are its author's."""
    connections = [name for name in body if name.endswith("conn_id") and (name in known or name == "qserv_conn_id")]
    if connections:
        raise RequestError(f"the parameter {connections[0]} cannot be set by requests to this service: leave it out")
    return {name: body[name] for name in body if name in known and name not in _PARAMS | _SERVICE}


def _joined(*warnings: str) -> str:
    return "; ".join(filter(None, warnings))


def begun(call: IndexCall, run_id: str, dag_id: str) -> dict[str, Any]:
    """
    The answer to a request that does not wait.

    :param call: the request.
    :param run_id: its run.
    :param dag_id: the run's DAG.
    :returns: the answer.
    """
    warning = _joined(call.warning, "dry_run: nothing will be built" if call.dry_run else "")
    return envelope(warning=warning, run_id=run_id, dag_id=dag_id)


def answer(
    call: IndexCall, status: str, why: Reason, failed: Mapping[str, Mapping[str, Mapping[str, str]]], *, flat: bool
) -> dict[str, Any]:
    """
    The answer to a request whose build has ended.

    :param call: the request.
    :param status: the run's.
    :param why: why it is not done.
    :param failed: ``{table: {worker: {chunk: error}}}``, of all failures.
    :param flat: whether ``error_ext`` goes without the tables, as the service has it since version 21.
    :returns: the answer.
    """
    if status == "done":
        built = "dry_run was not heeded by the DAG: the index was built" if call.dry_run else ""
        return envelope(warning=_joined(call.warning, built))
    if status == "pending" and call.dry_run:
        return envelope(warning=_joined(call.warning, f"{NOT_BUILT} ({why.text})" if why.text else NOT_BUILT))
    if status == "refused":
        return envelope(_refusal(why, call.conf), warning=call.warning)
    ext: Mapping[str, Any] = failed
    if flat:
        ext = {worker: chunks for workers in failed.values() for worker, chunks in workers.items()}
    error = "index creation failed"
    # Without a map there would be no reason at all.
    return envelope(error if ext else f"{error}: {why.text}", ext, call.warning)


def _refusal(why: Reason, conf: Mapping[str, Any]) -> str:
    """The service's own words for what the plan refuses."""
    database, table = conf["database"], conf["director_table"]
    match why.code:
        case Code.UNKNOWN_DATABASE:
            return f"operation failed due to: CONFIG  _databaseInfo no such database '{database}'."
        case Code.UNKNOWN_TABLE:
            return (
                f"operation failed due to: DatabaseInfo::findTable no such table '{table}' found in the database "
                f"'{database}'."
            )
        case Code.UNPUBLISHED_TABLE:
            # The blank is the service's.
            return f" the director table '{table}' of the database '{database}' is not published."
        case Code.NO_DIRECTOR_KEY:
            return f"director table has not been properly configured in database '{database}'"
        case Code.NOT_DIRECTOR_TABLE | Code.NO_SCHEMA | Code.MISSING_COLUMN:
            # The plan says it in the service's words.
            return why.text
        case _:
            return f"operation failed due to: {why.text}"
