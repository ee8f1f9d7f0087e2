"""Checks of an embedding model during planning: whether its vectors depend on the whole text."""

from __future__ import annotations

import logging
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.embedding.bisect import PROBE
from airflow_reindex.vectors.embedding.requests import check_vectors, embed_texts
from airflow_reindex.vectors.model.collection import Vectors
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, SuspectError
from airflow_reindex.vectors.model.splitting import Splitter

log = logging.getLogger(__name__)

#: Endings of a long text; they share no word with each other or with what precedes them.
_ENDS = ("green river stone", "music engine paper")
#: Texts without anything in common. A model may know one script only, and treat all others alike.
TEXTS = (PROBE, "Снег идёт с самого утра.", "今天的市场很安静。", "3141592653 2718281828", *_ENDS)
#: Common words, with about as many characters per token as English prose: a model that takes parts of prose takes this.
_SENTENCE = "The house by the lake was built of old wood, and it has a red door and two windows to the south. "
#: Vectors are equal when they differ by less than this share of their largest number.
_NOISE = 1e-5
#: Every model's largest number is within these; numbers decoded with the wrong width are not.
_LEAST, _MOST = 1e-6, 1e6


@runtime_checkable
class ChecksEncoding(Protocol):
    """A model that can check whether its server's numbers are decoded correctly."""

    def check_encoding(self, text: str) -> None:
        """
        Check the decoding with any text.

        :raises RequestError: the numbers are decoded wrongly; says what to do.
        """


def check_model(model: EmbeddingModel, splitter: Splitter, *, allow_cut: bool = False) -> None:
    """
    Embed a few texts, to detect a wrong address, key or number of dimensions, and meaningless answers.

    :param splitter: makes the parts that the model will get.
    :param allow_cut: only warn when the model truncates its input.
    :raises RequestError: the model cannot be used, its vectors do not depend on the text, or it truncates long texts.
    :raises TransientError: it is away or busy.
    """
    spec = model.spec
    try:
        vectors = embed_texts(model, TEXTS)
    except DataError as error:
        raise RequestError(f"model '{spec.model_id}' fails at a harmless text: {error}") from error
    check_encoding(model)
    complaint = next(filter(None, check_vectors(vectors, spec.dimensions, spec.metric)), None)
    if complaint:
        remedy = "its connection's 'dimensions', or the model" if vectors.shape[1] != spec.dimensions else "the model"
        raise RequestError(f"model '{spec.model_id}': {complaint}. Mend {remedy}.")
    largest = np.abs(vectors).max(axis=1)
    if largest.max() > _MOST or largest.max() < _LEAST:
        raise RequestError(
            f"model '{spec.model_id}': its vectors have numbers like {largest.max():.1e}, which no model gives: they "
            "are read otherwise than the server means them. Look at its encoding and its 'options'."
        )
    if all(_same(one, other) for one, other in combinations(vectors, 2)):
        raise RequestError(
            f"the answers of model '{spec.model_id}' do not depend on the text: {len(TEXTS)} texts that have nothing "
            "in common get the same vector. Look at its server."
        )
    # A model that does not know these words at all cannot be tested with them.
    if not _same(vectors[-2], vectors[-1]):
        _check_end(model, splitter, allow_cut=allow_cut)


def check_encoding(model: EmbeddingModel) -> None:
    """
    Run the model's own encoding check, if it has one.

    :raises RequestError: numbers are decoded wrongly.
    """
    if isinstance(model, ChecksEncoding):
        model.check_encoding(PROBE)


def long_texts(characters: int) -> tuple[str, str]:
    """
    Return two texts that differ in their last words only.

    :param characters: the most characters in one; exceeded when it is less than an ending has.
    """
    room = max(characters - 1 - max(map(len, _ENDS)), 0)
    body = (_SENTENCE * (room // len(_SENTENCE) + 1))[:room].rpartition(" ")[0]
    one, other = (f"{body} {end}".strip() for end in _ENDS)
    return one, other


def _check_end(model: EmbeddingModel, splitter: Splitter, *, allow_cut: bool) -> None:
    """Refuse a model that silently ignores the end of the longest parts."""
    spec, most = model.spec, splitter.characters
    one, other = long_texts(most)
    if len(one) > most:
        return
    try:
        vectors = embed_texts(model, [one, other, one])
    except (DataError, SuspectError) as error:
        log.warning("model '%s' fails at a part of %s characters, the most in one: %s", spec.model_id, most, error)
        return
    if any(check_vectors(vectors, spec.dimensions, spec.metric)):
        log.warning("model '%s' gives no vector for a part of %s characters, the most in one", spec.model_id, most)
        return
    # Servers that compute in low precision return other vectors at another position of the same request.
    noise = float(np.abs(vectors[0] - vectors[2]).max())
    if not _same(vectors[0], vectors[1], noise):
        return
    message = (
        f"model '{spec.model_id}' cuts its input without a word: two parts of {most:,} characters, the most in one, "
        f"that differ in their last words get the same vector; it reads about {_reach(model, most):,} characters of "
        "such a text. Set fewer 'characters' in the loader's 'split', or use a model or a server that takes more; "
        "max_same_vectors=1 allows it."
    )
    if not allow_cut:
        raise RequestError(message)
    log.warning("%s", message)


def _reach(model: EmbeddingModel, most: int) -> int:
    """Estimate the number of characters that a model reads."""
    read, unread = 0, most
    while unread - read > max(8, most // 100):
        middle = (read + unread) // 2
        one, other = embed_texts(model, long_texts(middle))
        if _same(one, other):
            unread = middle
        else:
            read = middle
    return max(read - max(map(len, _ENDS)), 0)


def _same(one: Vectors, other: Vectors, noise: float = 0.0) -> bool:
    return float(np.abs(one - other).max()) <= max(_NOISE * float(np.abs(one).max()), noise)
