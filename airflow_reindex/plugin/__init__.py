"""Airflow's API server serves the reports of runs."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin


class ReindexPlugin(AirflowPlugin):
    """Serves the reports of runs; the links of tasks lead here."""

    name = "airflow_reindex"
