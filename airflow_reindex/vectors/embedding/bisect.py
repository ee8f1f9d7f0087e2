"""Finding the items that make a batch fail, so that the others land: the batch is halved until the culprit is alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airflow_reindex.core.failures import DataError, RequestError, TransientError, detail
from airflow_reindex.vectors.embedding.requests import check_vectors, embed_texts
from airflow_reindex.vectors.model.collection import Embedded, Item, Mark, Stage
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, SuspectError

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

    An item is charged only when it failed alone while the model did well at a harmless text: among others it may have
    failed because of one of them, and alone because the server was away for a moment.

    :param model: the model.
    :param items: the items, each once.
    :returns: those with their vectors, and those that failed, in the order of the items.
    :raises RequestError: the model, its address or its credentials are wrong, or all its vectors have another length
        than its connection says.
    :raises TransientError: it is away or busy, or fails at a harmless text, too.
    """
    answer = _ask(model, items)
    if answer.why is None:
        return answer.good, []
    good, failed = _settle(model, items, answer)
    places = {prepared.item.object_id: place for place, prepared in enumerate(items)}
    good.sort(key=lambda one: places[one.item.object_id])
    failed.sort(key=lambda one: places[one.object_id])
    return good, failed


@dataclass(frozen=True, slots=True)
class _Answer:
    """Items that are well, those that are not, and why the first of them is not; ``None`` when all are well."""

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
            good.append(Embedded(prepared.item, vectors[start:end], prepared.mark))
        start = end
    return _Answer(good, bad, why)


def _settle(model: EmbeddingModel, items: Sequence[Prepared], answer: _Answer) -> tuple[list[Embedded], list[Failed]]:
    """Ask for the bad ones of an answer again, with fewer neighbours each time, until each is well or failed alone."""
    if answer.why is None:
        return answer.good, []
    if len(items) == 1:
        return _judge(model, items[0])
    if answer.good:
        good, failed = _settle(model, answer.bad, _ask(model, answer.bad))
        return answer.good + good, failed
    middle = len(items) // 2
    one, other = items[:middle], items[middle:]
    first = _ask(model, one)
    good, failed = _settle(model, one, first)
    # When one half is well, the cause is in the other, which need not fail as a whole once more.
    known = first.why is None and len(other) > 1
    second = _settle(model, other, _Answer([], other, answer.why) if known else _ask(model, other))
    return good + second[0], failed + second[1]


def _judge(model: EmbeddingModel, prepared: Prepared) -> tuple[list[Embedded], list[Failed]]:
    """Ask once more for an item that failed alone, with a harmless text before and after it."""
    _probe(model)
    answer = _ask(model, [prepared])
    if answer.why is None:
        return answer.good, []
    _probe(model)
    return [], [Failed.of(prepared.item, Stage.INFERENCE, answer.why)]


def _probe(model: EmbeddingModel) -> None:
    """Raise when the model fails at a harmless text, too: then it is no item's fault."""
    spec = model.spec
    everything = f"model '{spec.model_id}' fails at everything"
    try:
        vectors = embed_texts(model, [PROBE])
    except SuspectError as error:
        raise TransientError(f"{everything}: {error}") from error
    except DataError as error:
        raise RequestError(f"{everything}: {error}") from error
    complaint = check_vectors(vectors, spec.dimensions, spec.metric)[0]
    if complaint and vectors.shape[1] != spec.dimensions:
        # It is another one than its connection says.
        raise RequestError(f"{everything}: {complaint}. Set 'dimensions' in its connection to what the model gives.")
    if complaint:
        # It did well when the run was planned, and may do so again.
        raise TransientError(f"{everything}: for a harmless text, too, {complaint}. Look at its server.")


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
