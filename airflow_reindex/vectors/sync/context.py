"""What every step of a reindex needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_reindex.vectors.embedding.pipeline import EmbeddingPipeline
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec
from airflow_reindex.vectors.model.store import Store


@dataclass(frozen=True, kw_only=True)
class ReindexContext:
    """
    Store, models and loader of a reindex.

    :param source_model: opens the source's model, which only the comparison of searches needs.
    :param pipeline: the destination's embedding pipeline.
    """

    store: Store
    source_spec: ModelSpec
    source_model: Callable[[], EmbeddingModel]
    pipeline: EmbeddingPipeline

    @property
    def dest_spec(self) -> ModelSpec:
        """The description of the destination's model."""
        return self.pipeline.model.spec
