"""Compare a director index with its chunk tables."""

from airflow_reindex.dag_factory import director_index_audit_dag

dag = director_index_audit_dag()
