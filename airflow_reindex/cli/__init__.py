"""The command line `airflow-reindex`, for those who run a deployment."""
