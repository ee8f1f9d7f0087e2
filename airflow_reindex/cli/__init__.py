"""The command line `airflow-reindex`, for operators of a deployment."""
