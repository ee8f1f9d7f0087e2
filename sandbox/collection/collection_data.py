"""A vector collection of real texts: the descriptions of the installed Python distributions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.vectors.embedding.bisect import Prepared, embed_items
from airflow_reindex.vectors.model.collection import CollectionInfo, Item, SyncState
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec
from airflow_reindex.vectors.model.splitting import Splitter
from airflow_reindex.vectors.model.store import Pointer, Store
from sandbox.collection.texts import Document

#: Embedding models that need no download, by dimensions: their weights lie in a wheel.
WORD_MODELS = {"words_64": 64, "words_128": 128, "words_256": 256}
SOURCE_MODEL = "words_64"
#: Of the descriptions, so much is indexed: the demonstration is to be quick.
_CHARACTERS, _PART = 4000, 1000
_TOGETHER = 50


def word_model(model_id: str) -> ModelSpec:
    """One of the models.

    :param model_id: its id
    :returns: its description
    """
    return ModelSpec(model_id=model_id, backend="wordllama", name="l2_supercat", dimensions=WORD_MODELS[model_id])


def model_connections() -> dict[str, dict[str, Any]]:
    """Airflow's connections to the models.

    :returns: connection id to connection
    """
    return {
        name: {
            "conn_type": "embedding_model",
            "extra": json.dumps({"backend": "wordllama", "model": "l2_supercat", "dimensions": dimensions}),
        }
        for name, dimensions in WORD_MODELS.items()
    }


def index_documents(store: Store, model: EmbeddingModel, documents: Sequence[Document], alias: str) -> int:
    """Make a collection, and an alias that follows it.

    :param store: where
    :param model: what embeds the documents; the collection has its id
    :param documents: the contents
    :param alias: what readers follow
    :returns: how many vectors it has, averages not counted
    """
    spec, splitter = model.spec, Splitter(_PART)
    owner = Owner("sandbox", "sandbox", "index_documents", "localhost", "")
    claim = Claim(dest=spec.model_id, source="", token="sandbox", owner=owner)  # noqa: S106 - no secret: a claim's mark
    store.prepare()
    store.take(claim, lambda claims: next((other for other in claims if other.dest == claim.dest), None))
    info = CollectionInfo(
        collection_id=spec.model_id, embedding_model_id=spec.model_id, dimensions=spec.dimensions, metric=spec.metric
    )
    store.create(claim.token, info)
    collection = store.open(spec.model_id)
    vectors = 0
    for start in range(0, len(documents), _TOGETHER):
        prepared = [_prepare(document, splitter) for document in documents[start : start + _TOGETHER]]
        embedded, _ = embed_items(model, prepared)
        collection.put(claim.token, embedded)
        vectors += sum(len(item.vectors) for item in embedded)
    collection.build_index(claim.token)
    store.release(claim)
    store.repoint(Pointer(alias=alias, collection_id=spec.model_id, embedding_model_id=spec.model_id), None)
    return vectors


def _prepare(document: Document, splitter: Splitter) -> Prepared:
    payload = {"summary": document.summary, "text": document.text[:_CHARACTERS], "version": document.version}
    item = Item(document.name, json.dumps(payload), json.dumps({"distribution": document.name}), b"")
    texts = splitter.split(f"{payload['summary']}\n{payload['text']}")
    return Prepared(item, texts, SyncState(b"", b"", plan_token="sandbox"))  # noqa: S106 - no password
