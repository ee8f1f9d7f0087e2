"""Recall of the ANN index against exact search."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Collection

log = logging.getLogger(__name__)

#: Stored vectors used as queries, and hits compared per query.
SAMPLE, K = 50, 10


def measure_recall(dest: Collection, least: float) -> dict[str, Any]:
    """
    Search for a sample of stored vectors, by the index and exactly.

    :param least: the lowest recall that is accepted.
    :returns: ``recall_at_10``, ``ann_ms`` and ``exact_ms`` (medians of one search); empty for an empty collection.
    :raises DataError: the recall is lower.
    """
    found, times = [], {True: list[float](), False: list[float]()}
    for vector in dest.sample(SAMPLE):
        distances: dict[bool, list[float]] = {}
        for exact in (True, False):
            began = time.perf_counter()
            distances[exact] = [hit.distance for hit in dest.search(vector, K, exact=exact)]
            times[exact].append((time.perf_counter() - began) * 1e3)
        # Parts at equal distances are equally right, so distances are compared and not ids.
        if distances[True]:
            edge = distances[True][-1] + 1e-6 * max(1.0, abs(distances[True][-1]))
            found.append(sum(distance <= edge for distance in distances[False]) / len(distances[True]))
    if not found:
        return {}
    recall = float(np.mean(found))
    log.info("recall@10 of the ANN index: %.3f over %s searches", recall, len(found))
    if recall < least:
        raise DataError(
            f"the ANN index finds {recall:.1%} of the ten nearest vectors, less than [reindex] least_recall={least}: "
            "raise ef_construction or m of the collection, or hnsw.ef_search of the readers and the setting "
            "[reindex] ef_search. If most vectors were replaced since the index was built, drop it, and clear 'verify'."
        )
    return {
        "recall_at_10": round(recall, 4),
        "ann_ms": round(float(np.median(times[False])), 2),
        "exact_ms": round(float(np.median(times[True])), 2),
    }
