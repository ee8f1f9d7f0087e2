"""What switch and roll-back share: whether an alias may be pointed elsewhere, and the note that it was."""

from __future__ import annotations

from dataclasses import replace

from airflow_reindex.core.failures import ConflictError
from airflow_reindex.vectors.model.store import Pointer, Store

#: A run whose last heartbeat is older than this has no task running.
ALIVE_SECONDS = 60.0


def note_hooked(store: Store, pointer: Pointer, token: str | None) -> None:
    """
    Note that the deployment's hook has been told of the switch.

    :param token: the claim that fences the change; ``None`` for a roll-back.
    :raises ConflictError: the alias has been pointed elsewhere meanwhile.
    """
    present = store.pointer(pointer.alias)
    if present is None or present.collection_id != pointer.collection_id:
        where = f"to '{present.collection_id}' " if present else "nowhere "
        raise ConflictError(f"alias '{pointer.alias}' was pointed {where}meanwhile; it stays there.")
    store.repoint(replace(pointer, hooked=True), token)


def refuse_busy(store: Store, collection_id: str, token: str = "") -> None:
    """
    Refuse to change a collection that a live run builds or reads.

    :param token: the claim of the run that asks; it does not count.
    :raises ConflictError: another run's heartbeat is recent.
    """
    for claim in store.claims():
        if claim.token != token and claim.silent < ALIVE_SECONDS and collection_id in (claim.dest, claim.source):
            what = "being built by" if claim.dest == collection_id else "being read by"
            raise ConflictError(f"collection '{collection_id}' is {what} {claim.owner}: wait for its end.")
