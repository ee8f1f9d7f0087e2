"""A vector collection: what it is made of, and what a run asks of one."""

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
    What a collection is made of.

    :param collection_id: its id.
    :param embedding_model_id: the model of its vectors; empty when the store does not know it.
    :param dimensions: of its vectors.
    :param metric: how distances are measured.
    :param m: HNSW: links a node.
    :param ef_construction: HNSW: candidates looked at while building.
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

    Payload and storage metadata are kept as the JSON text that the store gave, so that they are copied to the last
    digit.

    :param object_id: its key, at most 128 characters.
    :param payload_json: JSON text, or ``None``.
    :param storage_meta_json: JSON text that says where the content lies, or ``None``.
    :param version: equal for equal contents of the row, 16 bytes.
    :param user_id: whose it is, or ``None``.
    :param session_id: where it comes from, or ``None``.
    """

    object_id: str
    payload_json: str | None
    storage_meta_json: str | None
    version: bytes
    user_id: str | None = None
    session_id: str | None = None

    @property
    def payload(self) -> Any:
        """The payload, parsed anew at each call."""
        return None if self.payload_json is None else json.loads(self.payload_json)

    @property
    def storage_meta(self) -> Any:
        """The storage metadata, parsed anew at each call."""
        return None if self.storage_meta_json is None else json.loads(self.storage_meta_json)


@dataclass(frozen=True, slots=True)
class Mark:
    """
    What a destination remembers of an item beside its row: what was embedded, or why it could not be.

    :param version: the source row's version at that time.
    :param recipe: how it was embedded: model, loader, splitter.
    :param content: the version of content that lies outside of the row (an ETag); empty when there is none.
    :param stage: empty for an item that landed, else where it failed.
    :param detail: why it failed, at most 1500 characters.
    :param run: the run that wrote the mark.
    """

    version: bytes
    recipe: bytes
    content: str = ""
    stage: str = ""
    detail: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """
    An item in a destination.

    :param row: the version of its row, or ``None`` when there is no row.
    :param mark: its mark, or ``None``.
    """

    row: bytes | None
    mark: Mark | None

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else has written, changed or removed the row since this package did."""
        if self.row is None:
            # What failed has never landed; what landed and is gone was removed.
            return self.mark is not None and not self.mark.stage
        return self.mark is None or self.row != self.mark.version


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """
    An item with its vectors, ready to be written.

    :param item: the item.
    :param vectors: one a part, shape ``(parts, dimensions)``, at least one part.
    :param mark: what is to be remembered.
    """

    item: Item
    vectors: Vectors
    mark: Mark

    @property
    def average(self) -> Vectors:
        """The object's own average, shape ``(dimensions,)``."""
        return np.asarray(self.vectors.mean(axis=0, dtype=np.float64), dtype=np.float32)

    @property
    def part_ids(self) -> list[str]:
        """The ids of its parts, then that of its average."""
        return part_ids(self.item.object_id, len(self.vectors))


def part_ids(object_id: str, parts: int) -> list[str]:
    """
    Name an object's parts as EmbeddingStudio does: ``<object id>:<number>`` and ``<object id>:average``.

    :param object_id: the object, at most 128 characters.
    :param parts: how many.
    :returns: ``parts + 1`` ids of at most 128 characters; a long object id is cut, and told apart by its hash.
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
    A part that a search has found.

    :param part_id: the part.
    :param object_id: its object.
    :param distance: the smaller the nearer, whatever the metric.
    """

    part_id: str
    object_id: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class Damage:
    """
    What is wrong with the vectors of a range.

    :param incomplete: objects without parts or without their average, the first hundred.
    :param orphans: parts of objects that are not there.
    """

    incomplete: Sequence[str] = field(default_factory=tuple)
    orphans: int = 0


@dataclass(frozen=True, kw_only=True)
class Twins:
    """
    Parts of originals, no averages, whose vectors are equal.

    :param parts: how many parts there are.
    :param shared: how many of them have a vector that another one has, too.
    :param pairs: of the vectors that most have: how many have it, and two parts, each as part id and object id.
    """

    parts: int = 0
    shared: int = 0
    pairs: Sequence[tuple[int, tuple[str, str], tuple[str, str]]] = field(default_factory=tuple)


class Collection(Protocol):
    """
    One collection. *Originals* are objects that belong to no user's personalised copy (``original_id`` is NULL).

    Key ranges ``(after, upto]`` are in the store's own order of keys; ``None`` leaves an end open. Methods may be
    called from several threads. What changes a destination is one transaction, fenced by the claim's token.
    """

    @property
    def info(self) -> CollectionInfo:
        """What it is made of."""

    def count(self) -> int:
        """How many originals it has."""

    def count_user_objects(self) -> int:
        """How many objects belong to users (``original_id`` is set)."""

    def keys(self, batch: int) -> Iterator[list[str]]:
        """
        All originals' ids in one ordered pass, at most ``batch`` at a time, in bounded memory.

        :param batch: the most keys in a list.
        """

    def versions(self, after: str | None, upto: str | None, since: str | None = None) -> dict[str, bytes]:
        """
        The versions of the originals in a range.

        :param after: the range's open lower end.
        :param upto: its upper end.
        :param since: from :meth:`horizon`: rows that have surely not changed since may be left out.
        :returns: by object id.
        """

    def horizon(self) -> str:
        """A moment for ``since``, in a form of the store's own."""

    def items(self, keys: Sequence[str]) -> list[Item]:
        """
        Read originals.

        :param keys: their ids.
        :returns: those that are there, in no particular order.
        """

    def absent(self, keys: Sequence[str]) -> list[str]:
        """
        Which objects are not there; much cheaper than reading them.

        :param keys: ids.
        :returns: those that are no original's, in their order.
        """

    def states(self, after: str | None, upto: str | None, keys: Sequence[str] | None = None) -> dict[str, State]:
        """
        What a destination has in a range: rows of originals, and marks.

        :param after: the range's open lower end.
        :param upto: its upper end.
        :param keys: of these objects only; ``None``: of all.
        :returns: by object id, of each object that has a row or a mark.
        """

    def put(self, token: str, batch: Sequence[Embedded], *, only_unchanged: bool = False) -> list[str]:
        """
        Insert or replace objects with all their parts and marks, in one transaction.

        :param token: the claim.
        :param batch: the objects, each once.
        :param only_unchanged: leave alone what somebody else has written or removed: a row that is not the one that
            the object's present mark describes, and an object that has landed but whose row is gone.
        :returns: the ids that were left alone.
        :raises ClaimLostError: the claim is another's.
        :raises DataError: the store refuses one of them; nothing was written.
        :raises TransientError: the store is away or busy.
        """

    def fail(
        self, token: str, failed: Mapping[str, Mark], *, keep_rows: bool = False, only_unchanged: bool = False
    ) -> list[str]:
        """
        Remember items that failed, and remove older rows of theirs.

        :param token: the claim.
        :param failed: marks with a stage, by object id.
        :param keep_rows: leave rows as they are.
        :param only_unchanged: leave alone, mark and row, what somebody else has written or removed.
        :returns: the ids that were left alone.
        """

    def delete(self, token: str, keys: Sequence[str], *, only_unchanged: bool = False) -> list[str]:
        """
        Remove objects, their parts and marks, and the personalised copies that users have of them.

        :param token: the claim.
        :param keys: their ids; unknown ones do not matter.
        :param only_unchanged: leave alone a row that is not the one that the object's mark describes.
        :returns: the ids that were left alone.
        """

    def count_failed(self, run: str) -> int:
        """
        How many items a run has marked as failed.

        :param run: the run.
        """

    def damage(self, after: str | None, upto: str | None) -> Damage:
        """
        Look for objects whose vectors are not complete.

        :param after: the range's open lower end.
        :param upto: its upper end.
        """

    def twins(self, size: int) -> Twins:
        """
        Look for parts with equal vectors.

        :param size: how many pairs at most.
        """

    def has_index(self) -> bool:
        """Whether the ANN index is there and usable."""

    def build_index(self, token: str) -> None:
        """
        Build the ANN index over the vectors, with the parallelism that the server allows; fine when it is there.

        :param token: the claim.
        """

    def sample(self, size: int) -> Vectors:
        """
        Draw stored vectors of parts.

        :param size: how many at most.
        :returns: shape ``(n, dimensions)``.
        """

    def search(self, vector: Vectors, k: int, *, exact: bool = False) -> list[Hit]:
        """
        The nearest parts.

        :param vector: shape ``(dimensions,)``.
        :param k: how many.
        :param exact: by looking at all vectors; else by the ANN index.
        :returns: the nearest first.
        """
