"""What the DAGs of both jobs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import Param

#: A number, or what plainly means one. Without a `type` the form's field follows the default: a number or a switch.
FLAG = [{"type": "integer"}, {"type": "boolean"}, {"type": "string"}]

DEFAULT_ARGS = {
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
}


def bound(params: dict[str, Param], bind: Mapping[str, Any] | None) -> dict[str, Param]:
    """
    Give params other defaults.

    :param params: the params of a DAG.
    :param bind: defaults by name.
    :returns: the params.
    :raises ValueError: `bind` names a param that there is not.
    """
    unknown = set(bind or {}) - set(params)
    if unknown:
        raise ValueError(f"unknown params: {', '.join(sorted(unknown))}; there are {', '.join(params)}")
    for name, value in (bind or {}).items():
        params[name].value = value
    return params
