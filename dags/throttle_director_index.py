"""Change how fast the running build of a director index may go."""

from airflow_reindex.dag_factory import director_index_throttle_dag

dag = director_index_throttle_dag()
