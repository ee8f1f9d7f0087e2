"""What every step of a reindex works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_reindex.vectors.embedding.pipeline import Kitchen
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec
from airflow_reindex.vectors.model.store import Store


@dataclass(frozen=True, kw_only=True)
class Tools:
    """
    What a reindex works with.

    :param store: where both collections are.
    :param source_spec: the source's embedding model.
    :param source_model: makes the source's model, where it is needed: to compare searches.
    :param kitchen: the destination's model, the loader and the splitter.
    """

    store: Store
    source_spec: ModelSpec
    source_model: Callable[[], EmbeddingModel]
    kitchen: Kitchen

    @property
    def dest_spec(self) -> ModelSpec:
        """The destination's embedding model."""
        return self.kitchen.model.spec
