"""What the tests of all stores share: small collections, claims, and batches to be written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.core.failures import ConflictError
from airflow_reindex.vectors.model.collection import Collection, CollectionInfo, Embedded, Item, SyncState
from airflow_reindex.vectors.model.store import Store

DIMENSIONS = 4
#: The token with which the fixture `dest` is claimed.
TOKEN = "token-dst"
CONFIG_HASH = b"r" * 16


@dataclass(frozen=True, kw_only=True)
class Place:
    """
    Where a store has its collections, and what others can do there.

    :param connect: makes a store there; its second argument is given in other processes, too.
    :param rewrite: replaces an object's payload.
    :param remove: removes an object with its parts.
    :param strip: removes an object's parts (``False``) or its average (``True``).
    :param copy: makes a user's copy of an object, with a part.
    """

    connect: Callable[[str], Store]
    address: str
    rewrite: Callable[[str, str, Any], None]
    remove: Callable[[str, str], None]
    strip: Callable[[str, str, bool], None]
    copy: Callable[[str, str, str], None]

    def store(self) -> Store:
        """A store of its own."""
        return self.connect(self.address)


def info(collection_id: str, **changes: Any) -> CollectionInfo:
    """What a small collection is made of."""
    known = {"embedding_model_id": "model", "dimensions": DIMENSIONS, **changes}
    return CollectionInfo(**known, collection_id=collection_id)


def claim(dest: str, token: str = "token", run: str = "run") -> Claim:
    """A claim of a run."""
    return Claim(dest=dest, source="src", token=token, owner=Owner("here", "dag", run, "host", "folder"))


def respect(found: Sequence[Claim]) -> Claim | None:
    """A judge that gives nothing away."""
    if found:
        raise ConflictError("taken")
    return None


def take(store: Store, dest: str, token: str = "token") -> str:
    """Take a claim, whoever has it."""
    store.take(claim(dest, token), lambda found: next((other for other in found if other.dest == dest), None))
    return token


def created(store: Store, collection_id: str, **changes: Any) -> Collection:
    """A new collection, whose claim has the token ``token-<id>``."""
    take(store, collection_id, f"token-{collection_id}")
    store.create(f"token-{collection_id}", info(collection_id, **changes))
    return store.open(collection_id)


def item(key: str, payload: Any = None, **changes: Any) -> Item:
    """An item; its version is not what a store would say."""
    known = {"payload_json": json.dumps(payload), "storage_meta_json": json.dumps({"file": key}), "version": b"v" * 16}
    return Item(**{**known, **changes}, object_id=key)


def embedded(one: Item, parts: int = 2, seed: int = 0, **marks: Any) -> Embedded:
    """An item with vectors."""
    vectors = np.random.default_rng(seed).normal(size=(parts, DIMENSIONS)).astype(np.float32)
    return Embedded(
        one,
        vectors,
        SyncState(**{"version": one.version, "embedding_config_hash": CONFIG_HASH, "plan_token": "run", **marks}),
    )


def failed(stage: str = "on_inference", **changes: Any) -> SyncState:
    """What is remembered of an item that failed."""
    return SyncState(
        **{
            "version": b"v" * 16,
            "embedding_config_hash": CONFIG_HASH,
            "stage": stage,
            "detail": "why",
            "plan_token": "run",
            **changes,
        }
    )


def fill(collection: Collection, keys: Iterable[str], **more: Any) -> dict[str, Item]:
    """Write items whose marks say what the store says of their rows."""
    token = f"token-{collection.info.collection_id}"
    keys = list(keys)
    collection.put(token, [embedded(item(key, {"n": key}), seed=seed, **more) for seed, key in enumerate(keys)])
    items = {found.object_id: found for found in collection.items(keys)}
    collection.put(token, [embedded(items[key], seed=seed, **more) for seed, key in enumerate(keys)])
    return items


def part_ids(collection: Collection) -> set[str]:
    """All parts and averages that are there."""
    query = np.ones(DIMENSIONS, np.float32)
    return {hit.part_id for hit in collection.search(query, 1000, exact=True)}


def contents(collection: Collection) -> Any:
    """All that is there of originals, in a form that can be compared."""
    keys = [key for batch in collection.keys(100) for key in batch]
    items = sorted(collection.items(keys), key=lambda found: found.object_id)
    return items, collection.states(None, None), part_ids(collection), replace(collection.info)
