"""What the DAGs of both jobs share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule
from airflow.sdk.configuration import conf

#: A number, or what plainly means one. Without a `type` the form's field follows the default: a number or a switch.
FLAG = [{"type": "integer"}, {"type": "boolean"}, {"type": "string"}]

#: Only failures that a retry may cure are retried. Wrong requests, wrong data and bugs are not: for the first two the
#: tasks raise `AirflowFailException`.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception="airflow_reindex.core.failures.TransientError",
            action=RetryAction.RETRY,
            reason="a server was away or busy",
        ),
        RetryRule(
            exception=[ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError],
            action=RetryAction.FAIL,
            reason="a mistake in the program or in what it is deployed with",
        ),
    ]
)

DEFAULT_ARGS = {
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_POLICY,
    # Of one task, not of a run: a task's work is bounded by `rows_per_task` or by its window.
    "execution_timeout": timedelta(hours=24),
    "weight_rule": "airflow_reindex.plugin.fair_share.FairShare",
}


def task_args(job: str, default_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Return the default arguments of a DAG's tasks.

    :param job: ``director`` or ``collection``, whose pool and queue the deployment may have set.
    :param default_args: the DAG's own, which take precedence.
    """
    args: dict[str, Any] = {**DEFAULT_ARGS, "pool": conf.get("reindex", f"{job}_pool", fallback="") or "default_pool"}
    if queue := conf.get("reindex", f"{job}_queue", fallback=""):
        args["queue"] = queue
    return {**args, **(default_args or {})}


def bound(params: dict[str, Param], bind: Mapping[str, Any] | None) -> dict[str, Param]:
    """
    Replace defaults of params.

    :raises ValueError: `bind` names an unknown param.
    """
    unknown = set(bind or {}) - set(params)
    if unknown:
        raise ValueError(f"unknown params: {', '.join(sorted(unknown))}; there are {', '.join(params)}")
    for name, value in (bind or {}).items():
        params[name].value = value
    return params
