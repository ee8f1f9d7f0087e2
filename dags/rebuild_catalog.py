"""Build all director indexes of a catalog, then move its collections."""

from airflow_reindex.dag_factory import catalog_dag

dag = catalog_dag()
