"""
The contract of Qserv's service that builds director indexes: requests, versions, answers and their texts.

Source of the rules: Qserv's Master Replication Controller, REST API version 55 (the page "Director Index Management" of
its documentation, and the answers of its service).
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

#: The served API version, and the oldest one whose requests are accepted.
VERSION, MIN_VERSION = 55, 22
NO_VERSION = "No version number was provided in the request."
_OBSOLETE = {"allow_for_published": 22, "local": 20}
#: Fields that the service itself reads, params of every run, and all params of a build.
_SERVICE = frozenset({"version", "wait", "auth_key", "admin_auth_key", "allow_for_published"})
_ALWAYS = ("database", "director_table", "rebuild", "local")
_PARAMS = frozenset(BuildRequest(database="d", director_table="t").as_params())
#: Most unknown fields that a warning names.
_NAMED = 20
NOT_BUILT = "dry_run: nothing was built"


class ContractError(ReindexError):
    """
    A request that the service answers with one of its own errors.

    :param ext: the value of ``error_ext``.
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
    :param wait: answer only when the build has ended.
    :param warning: for the answer.
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
        """Common prefix of the ids of runs for equal requests."""
        digest = hashlib.sha256(json.dumps(self.conf, sort_keys=True).encode()).hexdigest()[:16]
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{self.conf['database']}.{self.conf['director_table']}")
        return f"qserv__{name}__{digest}__"

    def number_of(self, run_id: str) -> int:
        """Return a run's number among those of equal requests; 0 for an id made elsewhere."""
        text = run_id.removeprefix(self.run_prefix)
        return int(text) if text.isdecimal() and len(text) < 10 else 0


def envelope(error: str = "", ext: Mapping[str, Any] | None = None, warning: str = "", **more: Any) -> dict[str, Any]:
    """
    Return the attributes that every answer has.

    :param error: empty on success.
    :param ext: ``error_ext``.
    :param warning: warnings, joined by ``"; "``.
    :param more: further attributes of the service.
    """
    return {**more, "success": int(not error), "error": error, "error_ext": dict(ext or {}), "warning": warning}


def read_body(text: bytes) -> dict[str, Any]:
    """
    Parse a request's body; empty for an empty one.

    :raises ContractError: it is not a JSON object.
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
    Compare the request's authorization key with the configured one, in constant time.

    :param key: the configured key; empty when there is none.
    :param admin_key: the configured administrator's key; empty when there is none.
    :raises KeyRefusedError: the key is missing or wrong.
    """
    prefix = "failed to pass authorization requirements, ex: "
    name = "admin_auth_key" if "admin_auth_key" in body else "auth_key"
    if name not in body:
        raise KeyRefusedError(
            f"{prefix}none of the authorization keys 'auth_key' or 'admin_auth_key' was found in the request. Please, "
            "provide one."
        )
    known, given = (admin_key if name == "admin_auth_key" else key), body[name]
    # Compared in every case, so that timing reveals nothing.
    equal = hmac.compare_digest(str(given).encode("utf-8", "replace"), known.encode("utf-8", "replace"))
    if not (equal and known and isinstance(given, str)):
        whose = "administrator's " if name == "admin_auth_key" else ""
        raise KeyRefusedError(
            f"{prefix}{whose}authorization key '{name}' in the request doesn't match the one in server configuration"
        )


def check_version(value: object, least: int = MIN_VERSION) -> str:
    """
    Check the API version that a client requests, and return a warning or an empty text.

    :param value: a number or a text that is one; ``None`` or 0 for none.
    :param least: the oldest accepted version.
    :raises ContractError: the version is not a number, or not served.
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
    Read a request to build an index. The DAG's own params are accepted, except for those that name connections.

    :param version: the query's version; the body's takes precedence.
    :param local: the default of ``local``.
    :param known: the DAG's params with their defaults; empty when unknown.
    :raises ContractError: the version is not served, or a parameter is missing, invalid, or cannot be set.
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
    """The run's params, without those equal to the DAG's defaults, so that equal requests have equal params."""
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
    # Also where it is the DAG's default: the answer tells whether it was requested.
    if request.dry_run:
        result["dry_run"] = 1
    return result


def _others(body: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Params of the DAG that are not a build's; those that name connections are reserved for its author."""
    connections = [name for name in body if name.endswith("conn_id") and (name in known or name == "qserv_conn_id")]
    if connections:
        raise RequestError(f"the parameter {connections[0]} cannot be set by requests to this service: leave it out")
    return {name: body[name] for name in body if name in known and name not in _PARAMS | _SERVICE}


def _joined(*warnings: str) -> str:
    return "; ".join(filter(None, warnings))


def begun(call: IndexCall, run_id: str, dag_id: str) -> dict[str, Any]:
    """The answer to a request that does not wait."""
    warning = _joined(call.warning, "dry_run: nothing will be built" if call.dry_run else "")
    return envelope(warning=warning, run_id=run_id, dag_id=dag_id)


def answer(
    call: IndexCall, status: str, why: Reason, failed: Mapping[str, Mapping[str, Mapping[str, str]]], *, flat: bool
) -> dict[str, Any]:
    """
    The answer to a request whose build has ended.

    :param status: the run's status.
    :param why: why it is not done.
    :param failed: all failures, as ``{table: {worker: {chunk: error}}}``.
    :param flat: omit the tables in ``error_ext``, as the service does since version 21.
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
    """The service's own wording for what the plan refuses."""
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
