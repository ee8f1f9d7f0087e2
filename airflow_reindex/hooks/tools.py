"""Store, models and loader of a reindex from Airflow's connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.embedding_model import EmbeddingModelHook
from airflow_reindex.hooks.loaders import make_loader
from airflow_reindex.vectors.embedding.pipeline import Kitchen
from airflow_reindex.vectors.model.request import ReindexRequest
from airflow_reindex.vectors.sync.tools import Tools


@contextmanager
def open_tools(request: ReindexRequest, conn_id: str, loaders: Mapping[str, Any] | None = None) -> Iterator[Tools]:
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
        kitchen = Kitchen(model=model, loader=loader, splitter=splitter)
        yield Tools(store=store, source_spec=spec, source_model=source.model, kitchen=kitchen)
    finally:
        model.close()
        store.close()
