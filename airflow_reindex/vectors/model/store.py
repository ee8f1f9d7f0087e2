"""Interface of stores: collections, claims on them, and aliases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from airflow_reindex.core.claims import Claim
from airflow_reindex.vectors.model.collection import Collection, CollectionInfo


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """
    The collection that an alias points to.

    :param alias: the name that readers follow.
    :param embedding_model_id: the model that queries must be embedded with.
    :param previous_collection_id: the collection before the last switch; empty when there is none.
    :param run_id: the run that switched.
    :param hooked: whether the deployment's hook has been called.
    :param switched_at: UTC, ISO 8601; by the store's clock.
    """

    alias: str
    collection_id: str
    embedding_model_id: str
    previous_collection_id: str = ""
    previous_model_id: str = ""
    run_id: str = ""
    hooked: bool = False
    switched_at: str = ""


class Store(Protocol):
    """
    A server, or a folder, with collections.

    Methods that only read also work before :meth:`prepare`: there are no claims and no aliases then. An error of the
    store's driver becomes a ``ReindexError``: a ``TransientError`` when the same call may succeed later.
    """

    @property
    def label(self) -> str:
        """Name used in messages; without secrets."""

    def check(self) -> None:
        """
        Check that the store answers and grants what is needed; changes nothing.

        :raises RequestError: something is missing; says what to do.
        :raises TransientError: it is away.
        """

    def prepare(self) -> None:
        """Create those of this package's own tables that are missing."""

    def list_collections(self) -> list[str]:
        """Return the ids of the collections that runs have created here."""

    def find(self, collection_id: str) -> CollectionInfo | None:
        """Return a collection's properties; ``None`` when it does not exist."""

    def open(self, collection_id: str) -> Collection:
        """Open a collection that exists."""

    def check_info(self, info: CollectionInfo) -> None:
        """
        Refuse a collection that could be created but not indexed here.

        :raises RequestError: says what to do.
        """

    def create(self, token: str, info: CollectionInfo) -> None:
        """
        Create a destination without its ANN index, and note its model; does nothing when it exists.

        It orders keys as the claim's source does, so that a key range has the same items in both.

        :raises ConflictError: it exists with other properties.
        """

    def drop(self, collection_id: str) -> None:
        """
        Remove a collection with all notes about it.

        :raises ConflictError: an alias still points to it, or another's views or tables depend on it.
        :raises TransientError: readers hold it.
        """

    def claims(self) -> list[Claim]:
        """Return all claims."""

    def take(self, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
        """
        Take the claim on a destination; reading, judging and writing are one atomic step.

        :param judge: gets all claims, perhaps more than once; raises when one must be respected; returns the one that
            is replaced, if any.
        :returns: the claim that was replaced.
        """

    def touch(self, claim: Claim) -> bool:
        """Write a heartbeat, and return whether the claim still exists."""

    def release(self, claim: Claim) -> None:
        """Release a claim; does nothing when another run holds it by now."""

    def followers(self, collection_id: str) -> list[str]:
        """Return the aliases that point to a collection."""

    def pointer(self, alias: str) -> Pointer | None:
        """Return where an alias points; ``None`` when it does not exist."""

    def check_alias(self, alias: str) -> None:
        """
        Refuse a name that cannot be an alias here.

        :raises RequestError: it is invalid or already taken by something else.
        """

    def repoint(self, pointer: Pointer, token: str | None) -> None:
        """
        Point an alias to a collection: what readers see and the registry change in one transaction.

        When it points there already, only the registry changes.

        :param token: the claim that fences the change; ``None`` for a roll-back, which needs none.
        :raises ClaimLostError: another run holds the claim; nothing has changed.
        :raises RequestError: the collection does not exist.
        """

    def hold_writers(self, collection_id: str, seconds: float) -> AbstractContextManager[None]:
        """
        Keep writers, but not readers, from a collection while the block runs.

        :param seconds: longest wait for running writers; TransientError when they do not finish in time.
        """

    def close(self) -> None:
        """Close connections."""
