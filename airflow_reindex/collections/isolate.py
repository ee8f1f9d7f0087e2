"""Finding the items that make a batch fail, so that the others land: the batch is halved until the culprit is alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from airflow_reindex.collections.collection import Embedded, Item, Mark, Stage, Vectors
from airflow_reindex.collections.embedding import check_vectors, embed_texts
from airflow_reindex.collections.models import EmbeddingModel, SuspectError
from airflow_reindex.core.failures import DataError, RequestError, TransientError, detail

#: A text that every sound model embeds: it tells a poisonous item from a server that fails at everything.
PROBE = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    An item whose content is there.

    :param item: the item.
    :param texts: its parts, at least one.
    :param mark: what is to be remembered when it has landed.
    """

    item: Item
    texts: Sequence[str]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Failed:
    """
    An item that failed by its own fault.

    :param object_id: the item.
    :param version: its row's version.
    :param stage: where it failed.
    :param detail: why, at most 1500 characters.
    :param storage_meta_json: where its content lies, as JSON text, or ``None``.
    """

    object_id: str
    version: bytes
    stage: str
    detail: str
    storage_meta_json: str | None = None

    @classmethod
    def of(cls, item: Item, stage: Stage, error: BaseException | str) -> Failed:
        """
        An item's failure.

        :param item: the item.
        :param stage: where it failed.
        :param error: why.
        """
        return cls(item.object_id, item.version, stage.value, detail(error), item.storage_meta_json)


def embed_items(model: EmbeddingModel, items: Sequence[Prepared]) -> tuple[list[Embedded], list[Failed]]:
    """
    Embed items, and set those apart that the model refuses or gives no usable vector for.

    :param model: the model.
    :param items: the items.
    :returns: those with their vectors, and those that failed.
    :raises RequestError: the model, its address or its credentials are wrong, or all its vectors have another length
        than its connection says.
    :raises TransientError: it is away or busy.
    """
    texts = [text for item in items for text in item.texts]
    try:
        vectors = embed_texts(model, texts)
    except (DataError, SuspectError) as error:
        if len(items) > 1:
            middle = len(items) // 2
            one, other = embed_items(model, items[:middle]), embed_items(model, items[middle:])
            return one[0] + other[0], one[1] + other[1]
        _probe(model, error)
        return [], [Failed.of(items[0].item, Stage.INFERENCE, error)]
    return _sort_out(model, items, vectors)


def _sort_out(
    model: EmbeddingModel, items: Sequence[Prepared], vectors: Vectors
) -> tuple[list[Embedded], list[Failed]]:
    spec = model.spec
    wrong = check_vectors(vectors, spec.dimensions, spec.metric)
    if vectors.shape[1] != spec.dimensions and _probe_length(model) != spec.dimensions:
        # Not the items' fault: the model is another one than its connection says.
        raise RequestError(
            f"model '{spec.model_id}': {wrong[0]}. Set 'dimensions' in its connection to what the model gives."
        )
    good, bad = [], []
    start = 0
    for prepared in items:
        end = start + len(prepared.texts)
        complaint = next(filter(None, wrong[start:end]), None)
        if complaint:
            bad.append(Failed.of(prepared.item, Stage.INFERENCE, f"model '{spec.model_id}': {complaint}"))
        else:
            good.append(Embedded(prepared.item, vectors[start:end], prepared.mark))
        start = end
    return good, bad


def _probe(model: EmbeddingModel, error: DataError | SuspectError) -> None:
    """Raise when the model fails at a harmless text, too: then it is not this item's fault."""
    text = f"model '{model.spec.model_id}' fails at everything: {error}"
    try:
        embed_texts(model, [PROBE])
    except SuspectError:
        raise TransientError(text) from error
    except DataError:
        raise RequestError(text) from error


def _probe_length(model: EmbeddingModel) -> int:
    return int(np.shape(embed_texts(model, [PROBE]))[1])


def write_items(
    put: Callable[[Sequence[Embedded]], object], items: Sequence[Embedded]
) -> tuple[list[Embedded], list[Failed]]:
    """
    Write items, and set those apart that the store refuses.

    :param put: writes all of a batch or nothing.
    :param items: the items.
    :returns: those that landed, and those that failed.
    """
    if not items:
        return [], []
    try:
        put(items)
    except DataError as error:
        if len(items) == 1:
            return [], [Failed.of(items[0].item, Stage.UPSERT, error)]
        middle = len(items) // 2
        one, other = write_items(put, items[:middle]), write_items(put, items[middle:])
        return one[0] + other[0], one[1] + other[1]
    return list(items), []
