"""Move a vector collection to another embedding model."""

from airflow_reindex.dag_factory import collection_reindex_dag

dag = collection_reindex_dag()
