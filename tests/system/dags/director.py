"""The DAG of this project, one with a schedule, and one that follows an index."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Asset, task

from airflow_reindex.dag_factory import director_index_audit_dag, director_index_dag, director_index_throttle_dag

QUICK = {"retries": 1, "retry_delay": timedelta(seconds=0.1), "retry_exponential_backoff": False}

build = director_index_dag(default_args=QUICK)

audit = director_index_audit_dag(default_args=QUICK)

throttle = director_index_throttle_dag()

nightly = director_index_dag(
    "nightly_sky",
    bind={"database": "sky_nightly", "director_table": "Object", "rebuild": 1},
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args=QUICK,
)

with DAG(
    "after_nightly", schedule=[Asset(name="sky_nightly__Object", uri="qserv://qserv_default/sky_nightly__Object")]
):

    @task
    def use() -> None:
        """Stands for whatever needs a new index."""

    use()
