"""Store, models and loader of a reindex from Airflow's connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.embedding_model import EmbeddingModelHook
from airflow_reindex.hooks.loaders import make_loader
from airflow_reindex.vectors.embedding.pipeline import EmbeddingPipeline
from airflow_reindex.vectors.model.request import ReindexRequest
from airflow_reindex.vectors.sync.context import ReindexContext


@contextmanager
def open_reindex(
    request: ReindexRequest, conn_id: str, loaders: Mapping[str, Any] | None = None
) -> Iterator[ReindexContext]:
    """
    Open store, models and loader of a reindex.

    :param loaders: loader definitions by name, in addition to the deployment's.
    """
    source = EmbeddingModelHook(request.source_embedding_model_id)
    spec = source.spec
    loader, splitter = make_loader(request.loader, loaders)
    store = CollectionHook(conn_id).store
    model = EmbeddingModelHook(request.dest_embedding_model_id).model()
    try:
        pipeline = EmbeddingPipeline(model=model, loader=loader, splitter=splitter)
        yield ReindexContext(store=store, source_spec=spec, source_model=source.model, pipeline=pipeline)
    finally:
        model.close()
        store.close()
