"""Factories of DAGs, one per job."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_reindex.dag_factory.audit import director_index_audit_dag as director_index_audit_dag
    from airflow_reindex.dag_factory.catalog import catalog_dag as catalog_dag
    from airflow_reindex.dag_factory.collection import collection_reindex_dag as collection_reindex_dag
    from airflow_reindex.dag_factory.collection import collection_rollback_dag as collection_rollback_dag
    from airflow_reindex.dag_factory.director import director_index_dag as director_index_dag
    from airflow_reindex.dag_factory.director import director_index_throttle_dag as director_index_throttle_dag

_ROOMS = {
    "catalog_dag": "catalog",
    "director_index_audit_dag": "audit",
    "director_index_dag": "director",
    "director_index_throttle_dag": "director",
    "collection_reindex_dag": "collection",
    "collection_rollback_dag": "collection",
}


def __getattr__(name: str) -> Any:
    # Each job is imported on use: the second one needs packages that a deployment of the first does not have.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
