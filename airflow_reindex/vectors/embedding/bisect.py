"""Bisection of failing requests: halved until the bad item is alone, so that all others are embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.vectors.embedding.requests import check_vectors, embed_texts
from airflow_reindex.vectors.model.collection import Embedded, Item, Stage, SyncState
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, SuspectError
from airflow_reindex.vectors.model.failed_item import FailedItem

#: A text that every working model embeds: tells a bad item from a server that fails at everything.
PROBE = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    An item with its content.

    :param texts: its parts, at least one.
    :param sync: stored with the item once it is written.
    """

    item: Item
    texts: Sequence[str]
    sync: SyncState


def embed_items(model: EmbeddingModel, items: Sequence[Prepared]) -> tuple[list[Embedded], list[FailedItem]]:
    """
    Embed items, and separate those that the model refuses or returns no usable vector for.

    An item fails only when it failed alone while the model embedded a harmless text: in a batch another item may be the
    cause, and alone a short outage of the server.

    :param items: each item once.
    :returns: embedded and failed items, both in the order given.
    :raises RequestError: the model, its address or its credentials are wrong, or all vectors differ in length from the
        connection's ``dimensions``.
    :raises TransientError: the server is away or busy, or fails at a harmless text, too.
    """
    answer = _ask(model, items)
    if answer.why is None:
        return answer.good, []
    good, failed = _bisect(model, items, answer)
    places = {prepared.item.object_id: place for place, prepared in enumerate(items)}
    good.sort(key=lambda one: places[one.item.object_id])
    failed.sort(key=lambda one: places[one.object_id])
    return good, failed


@dataclass(frozen=True, slots=True)
class _Answer:
    """Good and bad items of one request, and the error of the first bad one; ``None`` when all are good."""

    good: list[Embedded]
    bad: Sequence[Prepared]
    why: DataError | SuspectError | None = None


def _ask(model: EmbeddingModel, items: Sequence[Prepared]) -> _Answer:
    try:
        vectors = embed_texts(model, [text for item in items for text in item.texts])
    except (DataError, SuspectError) as error:
        return _Answer([], items, error)
    spec = model.spec
    wrong = check_vectors(vectors, spec.dimensions, spec.metric)
    good: list[Embedded] = []
    bad: list[Prepared] = []
    why: DataError | None = None
    start = 0
    for prepared in items:
        end = start + len(prepared.texts)
        complaint = next(filter(None, wrong[start:end]), None)
        if complaint:
            bad.append(prepared)
            why = why or DataError(f"model '{spec.model_id}': {complaint}")
        else:
            good.append(Embedded(prepared.item, vectors[start:end], prepared.sync))
        start = end
    return _Answer(good, bad, why)


def _bisect(
    model: EmbeddingModel, items: Sequence[Prepared], answer: _Answer
) -> tuple[list[Embedded], list[FailedItem]]:
    """Retry the bad items of an answer in ever smaller groups until each is embedded or has failed alone."""
    if answer.why is None:
        return answer.good, []
    if len(items) == 1:
        return _retry_alone(model, items[0])
    if answer.good:
        good, failed = _bisect(model, answer.bad, _ask(model, answer.bad))
        return answer.good + good, failed
    middle = len(items) // 2
    one, other = items[:middle], items[middle:]
    first = _ask(model, one)
    good, failed = _bisect(model, one, first)
    # When one half is good, the cause is in the other, which need not be sent whole once more.
    known = first.why is None and len(other) > 1
    second = _bisect(model, other, _Answer([], other, answer.why) if known else _ask(model, other))
    return good + second[0], failed + second[1]


def _retry_alone(model: EmbeddingModel, prepared: Prepared) -> tuple[list[Embedded], list[FailedItem]]:
    """Retry an item that failed alone, with a harmless text before and after it."""
    _probe(model)
    answer = _ask(model, [prepared])
    if answer.why is None:
        return answer.good, []
    _probe(model)
    return [], [FailedItem.of(prepared.item, Stage.INFERENCE, answer.why)]


def _probe(model: EmbeddingModel) -> None:
    """Raise when the model fails at a harmless text, too: then no item is at fault."""
    spec = model.spec
    everything = f"model '{spec.model_id}' fails at everything"
    try:
        vectors = embed_texts(model, [PROBE])
    except SuspectError as error:
        raise TransientError(f"{everything}: {error}", code=error.code) from error
    except DataError as error:
        raise RequestError(f"{everything}: {error}") from error
    complaint = check_vectors(vectors, spec.dimensions, spec.metric)[0]
    if complaint and vectors.shape[1] != spec.dimensions:
        # The model is not the one that its connection describes.
        raise RequestError(f"{everything}: {complaint}. Set 'dimensions' in its connection to what the model gives.")
    if complaint:
        # It worked when the run was planned, and may work again.
        raise TransientError(f"{everything}: for a harmless text, too, {complaint}. Look at its server.")
