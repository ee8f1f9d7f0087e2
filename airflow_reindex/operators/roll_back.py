"""Operator that rolls a switch back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.switch import switch_hook
from airflow_reindex.operators.base import ReindexOperator, airflow_errors
from airflow_reindex.vectors.cutover.rollback import roll_back
from airflow_reindex.vectors.model.store import Pointer

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollBackOperator(ReindexOperator):
    """
    Point an alias back to the collection before the last switch.

    :param on_switch: as for ``SwitchOperator``.
    """

    def __init__(self, *, on_switch: Callable[[Pointer], None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_switch = on_switch

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll back, and return the collection that readers follow now and the newer writes that it lacks."""
        params = context["params"]
        with airflow_errors():
            store = CollectionHook(params.get("collection_conn_id") or CollectionHook.default_conn_name).store
            try:
                done = roll_back(store, str(params["alias"]), switch_hook(self.on_switch), context["dag_run"].run_id)
            finally:
                store.close()
        self.log.info(
            "alias '%s' follows collection '%s' of model '%s' again; it lacks %s newer writes and has %s items that "
            "were removed since, such as %s",
            done.alias, done.collection_id, done.embedding_model_id, done.missing, done.resurrected, done.named[:10],
        )  # fmt: skip
        return asdict(done)
