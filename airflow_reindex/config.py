"""The deployment's settings: section `[reindex]` of Airflow's configuration. Defaults are in the provider info."""

from __future__ import annotations

import os
import socket
from fnmatch import fnmatchcase

from airflow.sdk.configuration import conf

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.staging import Folder

SECTION = "reindex"


def staging_root() -> Folder:
    """
    Where runs keep their files.

    :returns: the folder of ``staging_url``, by default one under AIRFLOW_HOME.
    """
    url = conf.get(SECTION, "staging_url", fallback="")
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return Folder.at(url or os.path.join(os.path.expanduser(home), "reindex-staging"))  # noqa: PTH111, PTH118


def run_folder(dag_id: str, run_id: str) -> Folder:
    """
    A run's folder.

    :param dag_id: its DAG.
    :param run_id: its run.
    :returns: ``<staging_url>/<dag_id>/<run_id>``.
    """
    return staging_root().child(dag_id, run_id)


def check_allowed(conn_id: str) -> str:
    """
    Refuse a connection that the deployment does not offer to those who trigger runs.

    :param conn_id: the connection's id, from params.
    :returns: the same id.
    :raises RequestError: no pattern of ``allowed_conn_ids`` matches it.
    """
    patterns = [p.strip() for p in conf.get(SECTION, "allowed_conn_ids").split(",") if p.strip()]
    if not isinstance(conn_id, str) or not any(fnmatchcase(conn_id, pattern) for pattern in patterns):
        raise RequestError(
            f"the connection '{conn_id}' may not be used: this deployment allows {', '.join(patterns)} "
            "([reindex] allowed_conn_ids in Airflow's configuration)."
        )
    return conn_id


def deployment() -> str:
    """
    A name for this Airflow, so that runs of another one are not looked up here.

    :returns: the setting, or the API server's base URL; one on loopback is told apart by the host's name.
    """
    name = conf.get(SECTION, "deployment", fallback="")
    if name:
        return str(name)
    url = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    local = any(part in url for part in ("//localhost", "//127.", "//[::1]"))
    return f"{url} on {socket.gethostname()}" if local else str(url)


def integer(name: str, least: int = 1) -> int:
    """
    Read a number from the section.

    :param name: the option.
    :param least: the smallest value that makes sense.
    :returns: its value.
    :raises RequestError: it is smaller, or no number.
    """
    text = conf.get(SECTION, name)
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise RequestError(f"[reindex] {name} must be a whole number from {least}, not '{text}'.")
    return value
