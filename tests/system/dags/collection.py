"""The DAGs of the second job, one with a schedule, a loader, queries and a hook of its own, and a small one."""

from __future__ import annotations

from datetime import timedelta

import pendulum

from airflow_reindex.dag_factory import collection_reindex_dag, collection_rollback_dag
from airflow_reindex.vectors.model.store import Pointer

QUICK = {"retries": 1, "retry_delay": timedelta(seconds=0.1), "retry_exponential_backoff": False}


def tell(pointer: Pointer) -> None:
    """Stands for a registry elsewhere."""
    print(f"TOLD {pointer.alias} {pointer.collection_id}")


reindex = collection_reindex_dag(default_args=QUICK)

nightly = collection_reindex_dag(
    "nightly_reindex",
    bind={"source_embedding_model_id": "old_model", "dest_embedding_model_id": "new_model", "loader": "files"},
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    loaders={"files": {"kind": "s3", "aws_conn_id": "aws_files", "bucket": "documents"}},
    on_switch=tell,
    approval=True,
    default_args=QUICK,
)

back = collection_rollback_dag(default_args=QUICK)
