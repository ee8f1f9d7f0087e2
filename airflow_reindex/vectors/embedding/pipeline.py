"""Concurrent reading, embedding and writing in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.embedding.bisect import Prepared, embed_items
from airflow_reindex.vectors.model.collection import Collection, Embedded, Item, Stage, SyncState
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.model.loader import Content, Loader
from airflow_reindex.vectors.model.splitting import Splitter

#: Items per read from the source.
READ_ITEMS = 256
#: Parts per write transaction: the most work that a killed task loses.
WRITE_PARTS = 2000


@dataclass(frozen=True, kw_only=True)
class EmbeddingPipeline:
    """The model, loader and splitter that turn an item into vectors."""

    model: EmbeddingModel
    loader: Loader
    splitter: Splitter


@dataclass(frozen=True, slots=True)
class Unit:
    """
    Work for one embedding thread: about one request's texts, and items that failed before.

    :param failed: items without usable content.
    :param gone: number of items that are no longer in the source.
    """

    ready: list[Prepared]
    failed: list[FailedItem]
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Items that are written together.

    :param gone: number of items that are no longer in the source.
    """

    embedded: list[Embedded]
    failed: list[FailedItem]
    gone: int


def embed_stream(
    source: Collection, keys: Sequence[str], pipeline: EmbeddingPipeline, sync_of: Callable[[Item, str], SyncState]
) -> Iterator[Batch]:
    """
    Read, load, split and embed items, ahead of the caller, who writes them.

    One thread reads and ``in_flight`` threads embed; at most one batch and the items of ``4 * in_flight`` requests are
    held.

    :param sync_of: makes an item's sync state from the item and its content's version.
    :yields: batches of about 2000 parts, in the order of the keys.
    :raises RequestError: a setting or a credential is wrong.
    :raises TransientError: the source, the content's server or the model is away or busy.
    """
    in_flight = pipeline.model.spec.in_flight
    with closing(_prefetch(read_units(source, keys, pipeline, sync_of), in_flight)) as units:
        pool = ThreadPoolExecutor(in_flight, thread_name_prefix="reindex-embed")
        pending: deque[Future[Batch]] = deque()
        try:
            for unit in units:
                pending.append(pool.submit(_embed, pipeline.model, unit))
                # Twice the number of threads, so that none waits for the writer.
                if len(pending) >= 2 * in_flight:
                    yield from _next_batch(pending)
            while pending:
                yield from _next_batch(pending)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _next_batch(pending: deque[Future[Batch]]) -> Iterator[Batch]:
    """Merge the oldest finished units into one batch."""
    batch = Batch([], [], 0)
    parts, gone = 0, 0
    # A failed unit is left for the next call, so that everything before it is written first.
    while pending and parts < WRITE_PARTS and (not parts or _is_good(pending[0])):
        done = pending.popleft().result()
        batch.embedded.extend(done.embedded)
        batch.failed.extend(done.failed)
        gone += done.gone
        parts += sum(len(item.vectors) for item in done.embedded) or 1
    yield Batch(batch.embedded, batch.failed, gone)


def _is_good(unit: Future[Batch]) -> bool:
    return unit.done() and unit.exception() is None


def _embed(model: EmbeddingModel, unit: Unit) -> Batch:
    if not unit.ready:
        return Batch([], unit.failed, unit.gone)
    good, bad = embed_items(model, unit.ready)
    return Batch(good, unit.failed + bad, unit.gone)


def read_units(
    source: Collection, keys: Sequence[str], pipeline: EmbeddingPipeline, sync_of: Callable[[Item, str], SyncState]
) -> Iterator[Unit]:
    """
    Read items, and pack their texts into units of about one request each.

    :param sync_of: makes an item's sync state from the item and its content's version.
    """
    size = pipeline.model.spec.batch_size
    unit, texts = Unit([], []), 0
    for start in range(0, len(keys), READ_ITEMS):
        asked = keys[start : start + READ_ITEMS]
        found = {item.object_id: item for item in source.items(asked)}
        items = [found[key] for key in asked if key in found]
        for item, content in zip(items, pipeline.loader.load(items), strict=True):
            prepared = _prepare(item, content, pipeline.splitter, sync_of)
            if isinstance(prepared, FailedItem):
                unit.failed.append(prepared)
                continue
            # An item is not split over two units, which would be embedded and written separately.
            if texts and texts + len(prepared.texts) > size:
                yield unit
                unit, texts = Unit([], []), 0
            unit.ready.append(prepared)
            texts += len(prepared.texts)
        if len(items) < len(asked):
            yield Unit([], [], len(asked) - len(items))
    if unit.ready or unit.failed:
        yield unit


def _prepare(
    item: Item, content: Content | DataError, splitter: Splitter, sync_of: Callable[[Item, str], SyncState]
) -> Prepared | FailedItem:
    if isinstance(content, DataError):
        return FailedItem.of(item, Stage.DOWNLOADING, content)
    try:
        return Prepared(item, splitter.split(content.text), sync_of(item, content.version))
    except DataError as error:
        return FailedItem.of(item, Stage.SPLITTING, error)


def _prefetch(units: Iterator[Unit], threads: int) -> Generator[Unit]:
    """Run an iterator in its own thread, a few steps ahead."""
    handed: queue.Queue[Unit | BaseException | None] = queue.Queue(maxsize=2 * threads)
    stopped = threading.Event()

    def hand(value: Unit | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                handed.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for unit in units:
                if not hand(unit):
                    return
            hand(None)
        except BaseException as error:
            hand(error)

    thread = threading.Thread(target=read, name="reindex-read", daemon=True)
    thread.start()
    try:
        while (unit := handed.get()) is not None:
            if isinstance(unit, BaseException):
                raise unit
            yield unit
    finally:
        stopped.set()
        thread.join()
