"""Lookup of Airflow connections, and JSON objects in their extra."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_reindex.core.failures import RequestError


def find_connection(conn_id: str, advice: str = "") -> Connection:
    """
    Look a connection up.

    :param advice: what to do when it does not exist.
    :raises RequestError: it does not exist.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise RequestError(f"there is no Airflow connection '{conn_id}'{': ' if advice else ''}{advice}.") from error


def json_object(value: object, name: str, conn_id: str) -> dict[str, Any]:
    """
    Read a field of an extra that is a JSON object, perhaps as a text (from a form); empty when it is missing.

    :raises RequestError: it is something else.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    elif not value:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"'{name}' in the extra of the connection '{conn_id}' must be a JSON object.")
    return value
