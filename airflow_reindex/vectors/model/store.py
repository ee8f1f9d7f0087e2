"""What a store must offer: its collections, claims on them, and what readers follow."""

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
    What an alias points readers to.

    :param alias: the readers' name.
    :param collection_id: the collection that they see.
    :param embedding_model_id: the model that queries must be embedded with.
    :param previous_collection_id: the collection before the last switch; empty when there is none.
    :param previous_model_id: its model.
    :param run_id: the run that switched.
    :param hooked: whether the deployment's hook has been told.
    :param switched_at: UTC, ISO 8601; set by the store's clock.
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

    What only reads answers as long as nothing has been prepared, too: there are no claims and no aliases then.
    """

    @property
    def label(self) -> str:
        """What messages call it; no secrets."""

    def check(self) -> None:
        """
        Look whether the store answers and may be used as needed; changes nothing.

        :raises RequestError: something is missing, and what to do about it.
        :raises TransientError: it is away.
        """

    def prepare(self) -> None:
        """Make the tables of our own that are missing."""

    def known(self) -> list[str]:
        """The ids of the collections that runs have created here."""

    def find(self, collection_id: str) -> CollectionInfo | None:
        """
        Look a collection up.

        :param collection_id: its id.
        :returns: what is known of it; ``None`` when there is none.
        """

    def open(self, collection_id: str) -> Collection:
        """
        Open a collection that is there.

        :param collection_id: its id.
        """

    def check_info(self, info: CollectionInfo) -> None:
        """
        Refuse a collection that could be created but not indexed here.

        :param info: what it is made of.
        :raises RequestError: and what to do about it.
        """

    def create(self, token: str, info: CollectionInfo) -> None:
        """
        Create a destination without its ANN index, and note its model; fine when it is there.

        :param token: the claim.
        :param info: what it is made of.
        """

    def drop(self, collection_id: str) -> None:
        """
        Remove a collection with everything that is known of it.

        :param collection_id: its id.
        :raises ConflictError: an alias still follows it, or another's views or tables depend on it.
        :raises TransientError: readers hold it.
        """

    def claims(self) -> list[Claim]:
        """All claims."""

    def take(self, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
        """
        Take the claim on a destination: look, judge and write as one step, alone.

        :param claim: the new claim.
        :param judge: is shown all claims, perhaps more than once; raises when one must be respected; returns the one
            that is replaced, if any.
        :returns: the claim that was replaced.
        """

    def touch(self, claim: Claim) -> bool:
        """
        Give a sign of life.

        :param claim: the claim.
        :returns: whether it is still there.
        """

    def release(self, claim: Claim) -> None:
        """
        Give a claim back; fine when it is another's by now.

        :param claim: the claim.
        """

    def followers(self, collection_id: str) -> list[str]:
        """
        The aliases that point to a collection.

        :param collection_id: its id.
        """

    def pointer(self, alias: str) -> Pointer | None:
        """
        Where an alias points.

        :param alias: the readers' name.
        :returns: ``None`` when there is no such alias.
        """

    def check_alias(self, alias: str) -> None:
        """
        Refuse a name that cannot be an alias here.

        :param alias: the readers' name.
        :raises RequestError: it is no name, or is taken by something else.
        """

    def repoint(self, pointer: Pointer, token: str | None) -> None:
        """
        Point an alias somewhere: what readers follow and the registry change in one transaction.

        Where it points there already, only the registry changes.

        :param pointer: what it shall be.
        :param token: the claim that fences it; ``None`` for a roll-back, which needs none.
        :raises ClaimLostError: the claim is another's; nothing has changed.
        :raises RequestError: there is no such collection.
        """

    def hold_writers(self, collection_id: str, seconds: float) -> AbstractContextManager[None]:
        """
        Keep writers from a collection while the block runs; readers go on.

        :param collection_id: the collection.
        :param seconds: how long to wait for writers that are at it.
        :returns: a context manager that raises TransientError when they do not finish in time.
        """

    def close(self) -> None:
        """Let go of connections."""
