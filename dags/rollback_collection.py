"""Take the switch of a vector collection back."""

from airflow_reindex.dag_factory import collection_rollback_dag

dag = collection_rollback_dag()
