"""The deployment's function that informs a registry elsewhere about an alias."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from airflow_reindex import config
from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.vectors.model.store import Pointer


def switch_hook(given: Callable[[Pointer], None] | None) -> Callable[[Pointer], None] | None:
    """
    Return the function to call after a switch, or ``None``; its errors are retryable.

    :param given: from the factory; takes precedence over the deployment's setting.
    :raises RequestError: the setting does not name a function.
    """
    path = config.text("on_switch")
    if given is None and path:
        module, _, name = path.rpartition(".")
        try:
            given = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise RequestError(f"[reindex] on_switch names no function: {path}: {error}") from error
    return None if given is None else partial(_call, given)


def _call(hook: Callable[[Pointer], None], pointer: Pointer) -> None:
    try:
        hook(pointer)
    except Exception as error:
        raise TransientError(
            f"readers of alias '{pointer.alias}' follow '{pointer.collection_id}', but on_switch failed: {error}. It "
            "is called again when this task is tried again."
        ) from error
