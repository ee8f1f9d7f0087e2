"""A vector collection: its data types, and the interface that runs need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Metric = Literal["cosine", "euclid", "dot"]
Vectors = NDArray[np.float32]

#: EmbeddingStudio's columns for ids of objects and parts are VARCHAR(128).
MAX_ID = 128


class Stage(StrEnum):
    """Where an item failed; EmbeddingStudio's names."""

    DOWNLOADING = "on_downloading"
    SPLITTING = "on_splitting"
    INFERENCE = "on_inference"
    UPSERT = "on_upsert"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class CollectionInfo:
    """
    Properties of a collection.

    :param embedding_model_id: the model of its vectors; empty when the store does not know it.
    :param m: HNSW: links per node.
    :param ef_construction: HNSW: candidates considered per insertion.
    """

    collection_id: str
    embedding_model_id: str
    dimensions: int
    metric: Metric = "cosine"
    m: int = 16
    ef_construction: int = 64


@dataclass(frozen=True, slots=True)
class Item:
    """
    One original object of a collection, without its vectors.

    Payload and storage metadata stay the JSON text that the store returned, so that numbers keep all their digits.

    :param object_id: at most 128 characters.
    :param storage_meta_json: JSON text that says where the content is.
    :param version: 16 bytes, equal for equal contents of the row.
    """

    object_id: str
    payload_json: str | None
    storage_meta_json: str | None
    version: bytes
    user_id: str | None = None
    session_id: str | None = None

    @property
    def payload(self) -> Any:
        """The payload, parsed at each call."""
        return None if self.payload_json is None else json.loads(self.payload_json)

    @property
    def storage_meta(self) -> Any:
        """The storage metadata, parsed at each call."""
        return None if self.storage_meta_json is None else json.loads(self.storage_meta_json)


@dataclass(frozen=True, slots=True)
class SyncState:
    """
    What was embedded of an item, or why it failed: a row of the table of marks beside a destination.

    :param version: the source row's version at that time.
    :param embedding_config_hash: of model, loader and splitter.
    :param content: the version of content outside of the row (an ETag); empty when there is none.
    :param stage: where it failed; empty for an item that was written.
    :param detail: why it failed, at most 1500 characters.
    :param plan_token: the plan that wrote it.
    """

    version: bytes
    embedding_config_hash: bytes
    content: str = ""
    stage: str = ""
    detail: str = ""
    plan_token: str = ""


@dataclass(frozen=True, slots=True)
class DestState:
    """
    An item in a destination.

    :param row: the version of its row; ``None`` when there is no row.
    """

    row: bytes | None
    sync: SyncState | None

    @property
    def is_foreign(self) -> bool:
        """Whether another writer has written, changed or removed the row since this package wrote it."""
        if self.row is None:
            # An item that failed was never written; one that was written and has no row was removed.
            return self.sync is not None and not self.sync.stage
        return self.sync is None or self.row != self.sync.version


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """
    An item with its vectors, ready to be written.

    :param vectors: one per part, shape ``(parts, dimensions)``, at least one.
    """

    item: Item
    vectors: Vectors
    sync: SyncState

    @property
    def average(self) -> Vectors:
        """The mean of the parts' vectors, shape ``(dimensions,)``."""
        return np.asarray(self.vectors.mean(axis=0, dtype=np.float64), dtype=np.float32)

    @property
    def part_ids(self) -> list[str]:
        """The ids of its parts, then that of its average."""
        return part_ids(self.item.object_id, len(self.vectors))


def part_ids(object_id: str, parts: int) -> list[str]:
    """
    Name an object's parts as EmbeddingStudio does: ``<object id>:<number>`` and ``<object id>:average``.

    :returns: ``parts + 1`` ids of at most 128 characters; a long object id is cut and made unique by its hash.
    """
    room = MAX_ID - len(":average")
    stem = object_id
    if len(object_id) > room:
        digest = hashlib.sha256(object_id.encode()).hexdigest()[:32]
        stem = f"{object_id[: room - len(digest) - 1]}~{digest}"
    return [*(f"{stem}:{number}" for number in range(parts)), f"{stem}:average"]


@dataclass(frozen=True, slots=True)
class Hit:
    """
    A part found by a search.

    :param distance: smaller is nearer, whatever the metric.
    """

    part_id: str
    object_id: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class IntegrityErrors:
    """
    Integrity errors among the vectors of a key range.

    :param incomplete: the first hundred objects without parts or without their average.
    :param orphans: number of parts whose object does not exist.
    """

    incomplete: Sequence[str] = field(default_factory=tuple)
    orphans: int = 0


@dataclass(frozen=True, kw_only=True)
class Twins:
    """
    Parts of originals (averages not counted) with equal vectors.

    :param parts: number of all parts.
    :param shared: number of parts whose vector another part has, too.
    :param pairs: for the most frequent vectors: number of parts, and two of them as ``(part id, object id)``.
    """

    parts: int = 0
    shared: int = 0
    pairs: Sequence[tuple[int, tuple[str, str], tuple[str, str]]] = field(default_factory=tuple)


class Collection(Protocol):
    """
    One collection. *Originals* are objects that are not a user's personalised copy (``original_id`` is NULL).

    Key ranges ``(after, until]`` follow the store's own order of keys, which is the same in source and destination;
    ``None`` leaves an end open. Methods may be called from several threads. An error of the store's driver becomes a
    ``ReindexError``: a ``TransientError`` when the same call may succeed later, a ``DataError`` when content is
    refused. Each change of a destination is one transaction, fenced by the claim's ``token``; with ``only_unchanged``
    it skips what another writer has written or removed, and returns the skipped ids.
    """

    @property
    def info(self) -> CollectionInfo:
        """Properties of the collection."""

    def count(self) -> int:
        """Number of originals."""

    def count_user_objects(self) -> int:
        """Number of users' objects (``original_id`` is set)."""

    def keys(self, batch: int) -> Iterator[list[str]]:
        """Yield all originals' ids in one ordered pass, at most ``batch`` at a time, in bounded memory."""

    def versions(self, after: str | None, until: str | None, since: str | None = None) -> dict[str, bytes]:
        """
        Return the versions of a range's originals by object id.

        :param since: a watermark from :meth:`watermark`; rows that have certainly not changed since may be omitted.
        """

    def watermark(self) -> str:
        """Return a watermark for ``since``, in the store's own format."""

    def items(self, keys: Sequence[str]) -> list[Item]:
        """Read originals; missing ones are omitted, the order is arbitrary."""

    def missing_keys(self, keys: Sequence[str]) -> list[str]:
        """Return those ids that are not an original's, in order; much cheaper than reading items."""

    def states(self, after: str | None, until: str | None, keys: Sequence[str] | None = None) -> dict[str, DestState]:
        """
        Return rows of originals and sync states of a destination, by object id.

        :param keys: restricts the range to these objects.
        """

    def put(self, token: str, batch: Sequence[Embedded], *, only_unchanged: bool = False) -> list[str]:
        """
        Insert or replace objects with all their parts and sync states, in one transaction.

        :param batch: each object once.
        :param only_unchanged: skip rows that differ from their object's sync state, and objects that were written and
            are gone.
        :returns: the ids that were skipped.
        :raises ClaimLostError: another run holds the claim.
        :raises DataError: the store refuses one of them; nothing was written.
        :raises TransientError: the store is away or busy.
        """

    def fail(
        self, token: str, failed: Mapping[str, SyncState], *, keep_rows: bool = False, only_unchanged: bool = False
    ) -> list[str]:
        """
        Store the sync states of failed items, and remove their older rows.

        :param failed: sync states with a stage, by object id.
        :param keep_rows: keep the older rows.
        :returns: the ids that were skipped.
        """

    def delete(self, token: str, keys: Sequence[str], *, only_unchanged: bool = False) -> list[str]:
        """
        Remove objects, their parts and sync states, and users' personalised copies of them.

        :param keys: unknown ids are ignored.
        :param only_unchanged: skip rows that differ from their object's sync state.
        :returns: the ids that were skipped.
        """

    def count_failed(self, plan_token: str) -> int:
        """Number of items that failed in a plan."""

    def integrity_errors(self, after: str | None, until: str | None) -> IntegrityErrors:
        """Find objects of a range whose vectors are incomplete."""

    def twins(self, size: int) -> Twins:
        """Find parts with equal vectors; at most ``size`` pairs."""

    def has_index(self) -> bool:
        """Whether the ANN index exists and is usable."""

    def build_index(self, token: str) -> None:
        """Build the ANN index unless it exists, with the parallelism that the server allows."""

    def sample(self, size: int) -> Vectors:
        """Draw at most ``size`` stored vectors of parts, shape ``(n, dimensions)``."""

    def search(self, vector: Vectors, k: int, *, exact: bool = False) -> list[Hit]:
        """
        Return the ``k`` nearest parts, nearest first.

        :param vector: shape ``(dimensions,)``.
        :param exact: compare all vectors instead of using the ANN index.
        """
