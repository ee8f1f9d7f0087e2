"""The DAG `build_director_index`: (re)build the director index that a run's params name."""

from airflow_reindex.dag_factory import director_index_dag

dag = director_index_dag()
