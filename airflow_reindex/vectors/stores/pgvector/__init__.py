"""Collections in PostgreSQL with pgvector, in EmbeddingStudio's layout."""

from __future__ import annotations

from airflow_reindex.vectors.stores.pgvector.connections import connector
from airflow_reindex.vectors.stores.pgvector.store import PgVectorStore

__all__ = ["PgVectorStore", "connector"]
