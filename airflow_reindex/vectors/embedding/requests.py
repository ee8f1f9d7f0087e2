"""What all embedding models share: prefixes, request sizes, and the check that vectors can be stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.model.collection import Metric, Vectors
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, Kind


def embed_texts(model: EmbeddingModel, texts: Sequence[str], kind: Kind = "document") -> Vectors:
    """
    Embed any number of texts, one request after the other; raises like :meth:`EmbeddingModel.embed`.

    :param texts: without the model's prefix.
    :returns: shape ``(len(texts), n)``; see :func:`check_vectors` for their check.
    :raises RequestError: also when the model did not return one vector per text.
    :raises DataError: also when vectors differ in length.
    """
    spec = model.spec
    prefix = spec.document_prefix if kind == "document" else spec.query_prefix
    found = []
    for start in range(0, len(texts), spec.batch_size):
        batch = [prefix + text for text in texts[start : start + spec.batch_size]]
        vectors = np.asarray(model.embed(batch, kind), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(batch):
            raise RequestError(
                f"the backend '{spec.backend}' of model '{spec.model_id}' returned an array of shape {vectors.shape} "
                f"for {len(batch)} texts: it must return one vector a text."
            )
        found.append(vectors)
    if len({vectors.shape[1] for vectors in found}) > 1:
        raise DataError(f"model '{spec.model_id}' returned vectors of different lengths for different texts.")
    return np.concatenate(found) if found else np.empty((0, spec.dimensions), dtype=np.float32)


def check_vectors(vectors: Vectors, dimensions: int, metric: Metric = "cosine") -> list[str | None]:
    """
    Find vectors that cannot be stored or searched.

    :param vectors: shape ``(n, length)``.
    :param dimensions: the required length.
    :param metric: with ``cosine`` a zero vector has no direction and is bad.
    :returns: for each vector the reason why it is bad, or ``None``.
    """
    if vectors.shape[1] != dimensions:
        return [f"the model returned {vectors.shape[1]} numbers instead of {dimensions}"] * len(vectors)
    # Stores compute in single precision, where an overflow or underflow of squares is as bad as infinity or zero.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    messages: list[str | None] = [None] * len(vectors)
    for row in np.flatnonzero(~np.isfinite(squares)):
        finite = np.isfinite(vectors[row]).all()
        messages[row] = f"the model's vector {'is too long to compare' if finite else 'has NaN or infinite numbers'}"
    if metric == "cosine":
        for row in np.flatnonzero(squares == 0):
            messages[row] = "the model's vector is zero, which has no direction to compare"
    return messages
