"""The deployment's settings: section `[reindex]` of Airflow's configuration. Defaults are in the provider info."""

from __future__ import annotations

import json
import socket
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from airflow.sdk.configuration import conf

from airflow_reindex.core.failures import RequestError

SECTION = "reindex"
T = TypeVar("T")


def check_allowed(conn_id: str, option: str = "allowed_conn_ids") -> str:
    """
    Refuse a connection that the deployment does not offer in params; return its id otherwise.

    :param option: the setting with the allowed patterns.
    :raises RequestError: no pattern matches.
    """
    patterns = [p.strip() for p in conf.get(SECTION, option).split(",") if p.strip()]
    if not isinstance(conn_id, str) or not any(fnmatchcase(conn_id, pattern) for pattern in patterns):
        raise RequestError(
            f"the connection '{conn_id}' may not be used: this deployment allows {', '.join(patterns)} "
            f"([reindex] {option} in Airflow's configuration)."
        )
    return conn_id


def embedding_backends() -> dict[str, str]:
    """
    The deployment's own backends of embedding models, ``package.module.Class`` by name.

    :raises RequestError: the setting is not a JSON object of texts.
    """
    return _named("embedding_backends", str, '{"name": "package.module.Class"}')


def loader_definitions() -> dict[str, dict[str, Any]]:
    """
    The deployment's loader definitions by name.

    :raises RequestError: the setting is not a JSON object of objects.
    """
    return _named("loaders", dict, '{"name": {"kind": "payload"}}')


def _named(option: str, kind: type[T], example: str) -> dict[str, T]:
    text = conf.get(SECTION, option, fallback="") or "{}"
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(entry, kind) for entry in entries.values()):
        raise RequestError(f"[reindex] {option} must be a JSON object such as {example}, not '{text}'.")
    return entries


def query_sets() -> dict[str, dict[str, Any]]:
    """
    The definitions of query sets, for comparing models, by name.

    :raises RequestError: the setting is not a JSON object of objects.
    """
    return _named("query_sets", dict, '{"top": {"path": "/srv/queries.txt"}}')


def deployment() -> str:
    """
    Name of this Airflow deployment, which tells whether a run can be looked up here.

    :returns: the setting, or the API server's base URL; a loopback URL is extended by the host's name.
    """
    name = conf.get(SECTION, "deployment", fallback="")
    if name:
        return str(name)
    url = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    local = any(part in url for part in ("//localhost", "//127.", "//[::1]"))
    return f"{url} on {socket.gethostname()}" if local else str(url)


def integer(name: str, least: int = 1) -> int:
    """
    Read an integer setting.

    :raises RequestError: it is less than ``least``, or not a number.
    """
    text = conf.get(SECTION, name)
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise RequestError(f"[reindex] {name} must be a whole number from {least}, not '{text}'.")
    return value


def task_memory() -> int:
    """
    Memory limit of a task in bytes.

    :raises RequestError: it is less than a task needs.
    """
    return integer("memory_per_task", least=320) << 20


def text(name: str) -> str:
    """Read a text setting, stripped."""
    return str(conf.get(SECTION, name, fallback="") or "").strip()


def fraction(name: str) -> float:
    """
    Read a setting from 0 to 1.

    :raises RequestError: it is not in that range.
    """
    value = conf.get(SECTION, name)
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise RequestError(f"[reindex] {name} must be a number from 0 to 1, not '{value}'.")
    return number
