"""Search results of the old and the new model for the same queries, for a person who decides about a switch."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_reindex.core.staging import Folder
from airflow_reindex.vectors.embedding.requests import embed_texts
from airflow_reindex.vectors.model.collection import Collection
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel

if TYPE_CHECKING:
    from airflow_reindex.vectors.sync.context import ReindexContext

log = logging.getLogger(__name__)

Query = str
#: The search results of all queries; written beside the report.
QUALITY = "quality.json"
#: Objects compared per query, and parts fetched to find that many different objects.
K, PARTS = 10, 40


@dataclass(frozen=True, kw_only=True)
class Answers:
    """
    One model's search results.

    :param objects: the nearest objects of each query, nearest first.
    :param embed_ms: median time to embed one query.
    :param search_ms: median time of one search.
    """

    objects: list[list[str]]
    embed_ms: float
    search_ms: float


def answers(model: EmbeddingModel, collection: Collection, queries: Sequence[Query], k: int = K) -> Answers:
    """
    Search a collection for each query.

    :param k: objects per query.
    """
    objects, embedding, searching = [], [], []
    for query in queries:
        began = time.perf_counter()
        vector = embed_texts(model, [query], "query")[0]
        embedded = time.perf_counter()
        hits = collection.search(vector, PARTS)
        embedding.append((embedded - began) * 1e3)
        searching.append((time.perf_counter() - embedded) * 1e3)
        objects.append(list(dict.fromkeys(hit.object_id for hit in hits))[:k])
    return Answers(
        objects=objects,
        embed_ms=round(float(np.median(embedding or [0])), 2),
        search_ms=round(float(np.median(searching or [0])), 2),
    )


def compare_models(
    context: ReindexContext, source: Collection, dest: Collection, queries: Sequence[Query], folder: Folder
) -> dict[str, Any]:
    """
    Search source and destination, each with its own model.

    :param folder: gets the full results.
    :returns: ``queries``, ``overlap_at_10`` (mean share of common objects), and both sides' times.
    """
    model = context.source_model()
    try:
        old, new = answers(model, source, queries), answers(context.pipeline.model, dest, queries)
    finally:
        model.close()
    overlaps = [
        len(set(one) & set(other)) / max(len(one), len(other), 1)
        for one, other in zip(old.objects, new.objects, strict=True)
    ]
    folder.write_json(
        QUALITY,
        [
            {"query": query, "overlap": round(overlap, 3), "old": one, "new": other}
            for query, overlap, one, other in zip(queries, overlaps, old.objects, new.objects, strict=True)
        ],
    )
    for query, overlap, one, other in list(zip(queries, overlaps, old.objects, new.objects, strict=True))[:20]:
        log.info("query %r: overlap %.0f %%\n  old: %s\n  new: %s", query, 100 * overlap, one, other)
    return {
        "queries": len(queries),
        "overlap_at_10": round(float(np.mean(overlaps or [0])), 3),
        "old": {"embed_ms": old.embed_ms, "search_ms": old.search_ms},
        "new": {"embed_ms": new.embed_ms, "search_ms": new.search_ms},
        "file": folder.path(QUALITY),
    }
