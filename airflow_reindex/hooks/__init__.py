"""Airflow hooks: connections and how to reach what they name."""
