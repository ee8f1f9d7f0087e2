"""What reindexes have left in a store: claims, and unfinished collections."""

from __future__ import annotations

from airflow_reindex.core.claims import Claim
from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.core.orphans import Orphan, OrphanState
from airflow_reindex.vectors.model.store import Store


def find_orphans(store: Store, conn_id: str, claim_timeout: float) -> list[Orphan]:
    """
    List claims, and collections without an ANN index that no alias follows. Changes nothing.

    :param conn_id: the store's connection, for the advice.
    :param claim_timeout: seconds without a heartbeat after which a claim's owner counts as dead.
    :returns: orphans and live claims, claims first.
    """
    claims = {claim.dest: claim for claim in store.claims()}
    found = [_of_claim(claim, conn_id, claim_timeout) for claim in claims.values()]
    for name in store.list_collections():
        if store.find(name) is None or store.open(name).has_index() or store.followers(name):
            continue
        claim = claims.get(name)
        alive = claim is not None and claim.silent <= claim_timeout
        found.append(
            Orphan(
                kind="half-built collection",
                name=name,
                target=name,
                condition=OrphanState.AT_WORK if alive else OrphanState.ABANDONED,
                owner=str(claim.owner) if claim else "a run that has given its claim back",
                silent=claim.silent if claim else -1.0,
                advice="nothing: its run is alive." if alive else _advice(name, conn_id),
            )
        )
    return found


def abandon(store: Store, target: str, claim_timeout: float, *, dry_run: bool = False) -> list[str]:
    """
    Abandon a dead reindex: remove its claim and its unfinished destination.

    A destination that was finished once, or that readers follow, stays.

    :param target: the destination.
    :param claim_timeout: after how many silent seconds the run counts as dead.
    :param dry_run: only list what would be removed.
    :returns: what was removed.
    :raises ConflictError: the run is alive.
    :raises RequestError: there is nothing to abandon.
    """
    claim = next((claim for claim in store.claims() if claim.dest == target), None)
    if claim is not None and claim.silent <= claim_timeout:
        raise ConflictError(f"{claim.owner} sent its last heartbeat {claim.silent:.0f} s ago: stop it first.")
    half = target in store.list_collections() and not store.followers(target) and not store.open(target).has_index()
    if claim is None and not half:
        raise RequestError(f"there is neither a claim on collection '{target}' nor a half-built collection of that id.")
    removed = []
    if claim is not None:
        if not dry_run:
            store.release(claim)
        removed.append(f"the claim of {claim.owner}")
    if half:
        if not dry_run:
            store.drop(target)
        removed.append(f"the half-built collection '{target}'")
    return removed


def _of_claim(claim: Claim, conn_id: str, timeout: float) -> Orphan:
    dead = claim.silent > timeout
    return Orphan(
        kind="claim",
        name=claim.token,
        target=claim.dest,
        condition=OrphanState.ABANDONED if dead else OrphanState.AT_WORK,
        owner=str(claim.owner),
        silent=claim.silent,
        advice=_advice(claim.dest, conn_id) if dead else "nothing: it gives signs of life.",
    )


def _advice(dest: str, conn_id: str) -> str:
    return (
        "clear the failed tasks of that run in the UI, or trigger reindex_collection anew for the same models: it does "
        f"what is left. To give it up: airflow-reindex repair --collections {conn_id} --give-up {dest} --yes"
    )
