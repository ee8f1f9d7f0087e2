"""Makes the DAGs; one function a job."""

from airflow_reindex.dag_factory.collection import collection_reindex_dag, collection_rollback_dag
from airflow_reindex.dag_factory.director import director_index_dag

__all__ = ["collection_reindex_dag", "collection_rollback_dag", "director_index_dag"]
