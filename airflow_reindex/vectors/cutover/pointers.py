"""What a switch and a roll-back share: whether readers may be pointed, and that they were."""

from __future__ import annotations

from dataclasses import replace

from airflow_reindex.core.failures import ConflictError
from airflow_reindex.vectors.model.store import Pointer, Store

#: A run whose claim is older than this has no task at work.
ALIVE_SECONDS = 60.0


def note_hooked(store: Store, pointer: Pointer, token: str | None) -> None:
    """
    Note that nothing is left to do for a switch.

    :param store: the store.
    :param pointer: what readers follow now.
    :param token: the claim that fences it; ``None`` for a roll-back.
    :raises ConflictError: somebody has pointed the alias elsewhere meanwhile.
    """
    present = store.pointer(pointer.alias)
    if present is None or present.collection_id != pointer.collection_id:
        where = f"to '{present.collection_id}' " if present else "nowhere "
        raise ConflictError(f"alias '{pointer.alias}' was pointed {where}meanwhile; it stays there.")
    store.repoint(replace(pointer, hooked=True), token)


def refuse_busy(store: Store, collection_id: str, token: str = "") -> None:
    """
    Refuse to touch a collection that a run which gives signs of life builds or reads.

    :param store: the store.
    :param collection_id: the collection.
    :param token: the claim of the run that asks.
    :raises ConflictError: such a run exists.
    """
    for claim in store.claims():
        if claim.token != token and claim.silent < ALIVE_SECONDS and collection_id in (claim.dest, claim.source):
            what = "being built by" if claim.dest == collection_id else "being read by"
            raise ConflictError(f"collection '{collection_id}' is {what} {claim.owner}: wait for its end.")
