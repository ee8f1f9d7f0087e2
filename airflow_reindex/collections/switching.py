"""Switching readers over, and back: the last catch-up and the repointing while writers are held."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from airflow_reindex.collections.decide import Rules
from airflow_reindex.collections.isolate import Failed
from airflow_reindex.collections.plan import ReindexPlan
from airflow_reindex.collections.planning import check_pointer, check_user_objects
from airflow_reindex.collections.proving import difference, last_catch_up, prove, still_failed
from airflow_reindex.collections.reconcile import Tally
from airflow_reindex.collections.store import Pointer, Store
from airflow_reindex.core.failures import ConflictError, RequestError

if TYPE_CHECKING:
    from airflow_reindex.collections.steps import Session

log = logging.getLogger(__name__)

#: Items compared at a time when a roll-back looks for what the old collection lacks, and how many it names.
RANGE_ITEMS, NAMED = 20_000, 100
#: A run whose claim is older than this has no task at work.
ALIVE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Switched:
    """
    A switch that has happened.

    :param alias: what readers follow.
    :param previous: the collection that they followed before; empty when the alias is new.
    :param items: originals in the collection that they follow now.
    :param caught_up: items embedded or removed while writers were held.
    :param stragglers: writes that had waited for the lock, carried over after it.
    :param failed: items that are missing in it, all listed.
    :param source_deleted: whether the previous collection was removed.
    """

    alias: str
    previous: str
    items: int
    caught_up: int = 0
    stragglers: int = 0
    failed: int = 0
    source_deleted: bool = False


def already_switched(store: Store, plan: ReindexPlan) -> Switched | None:
    """
    Look whether there is nothing left to do: a try of this task that died after its last deed is tried again.

    :param store: the store.
    :param plan: the plan.
    :returns: what was switched; ``None`` when there is something to do.
    """
    pointer = store.pointer(plan.request.alias)
    if not pointer or pointer.collection_id != plan.dest.collection_id or not pointer.hooked:
        return None
    gone = store.find(plan.source.collection_id) is None
    if plan.request.delete_source and not gone:
        return None
    dest = store.open(plan.dest.collection_id)
    return Switched(
        alias=pointer.alias,
        previous=pointer.previous_collection_id,
        items=dest.count(),
        failed=dest.count_failed(plan.token),
        source_deleted=gone,
    )


def switch_readers(
    at: Session,
    hook: Callable[[Pointer], None] | None,
    lock_seconds: float,
    account: Callable[[int, list[Failed], int], object],
) -> Switched:
    """
    Do the last catch-up, and point the alias to the destination.

    :param at: the session.
    :param hook: tells a registry elsewhere; called again when the task is tried again before it succeeded.
    :param lock_seconds: how long to wait for writers of the source.
    :param account: is told how many items there are, which of them failed, and how many objects were left alone,
        before anything is switched.
    :returns: what was switched.
    :raises DataError: the destination is not the source minus the listed failures, or too many failed.
    :raises ConflictError: users' objects would be lost.
    :raises TransientError: writers or readers hold on to what has to be locked.
    """
    plan, store = at.plan, at.tools.store
    request = plan.request
    pointer = store.pointer(request.alias)
    if pointer and pointer.collection_id == plan.dest.collection_id:
        return _finish_switch(at, hook, lock_seconds, pointer)
    check_pointer(pointer, plan.source, plan.dest)
    check_user_objects(at.source, request)
    horizon = at.source.horizon()
    passed = at.whole()
    with store.hold_writers(plan.source.collection_id, lock_seconds):
        # Once more: from now on no other run switches readers of the source, and users' objects do not come.
        present = store.pointer(request.alias)
        twice = present if present and _is_own(present, plan) else None
        if twice is None:
            check_pointer(present, plan.source, plan.dest)
            check_user_objects(at.source, request)
            caught_up, passed = last_catch_up(at, horizon, passed)
            failed = still_failed(at, passed.failed + caught_up.failed)
            account(at.source.count(), failed, passed.left_alone)
            prove(at, len(failed), passed)
            items = at.dest.count()
            after = at.source.horizon()
            switched = _repoint(at, present)
            log.info("alias '%s' follows collection '%s'", request.alias, plan.dest.collection_id)
            if hook is not None:
                hook(switched)
    if twice is not None:
        # The same task was delivered twice, and the other one was quicker: readers may have written since.
        return _finish_switch(at, hook, lock_seconds, twice)
    stragglers = _stragglers(at, after, lock_seconds, passed)
    _note_hooked(store, switched, plan.token)
    return Switched(
        alias=request.alias,
        previous=switched.previous_collection_id,
        items=items,
        caught_up=caught_up.changes,
        stragglers=stragglers,
        failed=len(failed),
        source_deleted=_delete_source(at),
    )


def _is_own(pointer: Pointer, plan: ReindexPlan) -> bool:
    """Whether this very run has switched."""
    return (pointer.collection_id, pointer.run_id) == (plan.dest.collection_id, plan.run_id)


def _finish_switch(
    at: Session, hook: Callable[[Pointer], None] | None, lock_seconds: float, pointer: Pointer
) -> Switched:
    """What is left after an earlier try, or an earlier run, has switched."""
    plan, store = at.plan, at.tools.store
    stragglers = 0
    if not pointer.hooked:
        if hook is not None:
            hook(pointer)
        # Of an earlier run's switch the source is no longer the truth.
        if pointer.run_id == plan.run_id:
            stragglers = _stragglers(at, None, lock_seconds, Tally())
        _note_hooked(store, pointer, plan.token)
    _delete_source(at)
    switched = already_switched(store, plan)
    switched = switched or Switched(alias=pointer.alias, previous="", items=at.dest.count())
    return replace(switched, stragglers=stragglers)


def _repoint(at: Session, present: Pointer | None) -> Pointer:
    plan = at.plan
    pointer = Pointer(
        alias=plan.request.alias,
        collection_id=plan.dest.collection_id,
        embedding_model_id=plan.dest.embedding_model_id,
        previous_collection_id=plan.source.collection_id if present is None else present.collection_id,
        previous_model_id=plan.request.source_embedding_model_id,
        run_id=plan.run_id,
    )
    at.tools.store.repoint(pointer, plan.token)
    return pointer


def _note_hooked(store: Store, pointer: Pointer, token: str | None) -> None:
    """Nothing is left to do for this switch."""
    present = store.pointer(pointer.alias)
    if present is None or present.collection_id != pointer.collection_id:
        where = f"to '{present.collection_id}' " if present else "nowhere "
        raise ConflictError(f"alias '{pointer.alias}' was pointed {where}meanwhile; it stays there.")
    store.repoint(replace(pointer, hooked=True), token)


def _stragglers(at: Session, since: str | None, lock_seconds: float, passed: Tally) -> int:
    """Carry over what had waited for the lock and was written to the source after the switch."""
    # Who waited comes before this in the queue, and has ended when it is its turn.
    with at.tools.store.hold_writers(at.plan.source.collection_id, lock_seconds):
        left = at.source.count()
    rules = Rules(recipe=bytes.fromhex(at.plan.recipe), run=at.plan.token, protect=True, skip_failed=True)
    tally = at.whole(rules) if since is None else at.reconciler.run(None, None, rules, since=since)
    # Where writers write to the destination, removals from the source mean nothing; and who empties the old collection
    # does not mean the new one.
    if left and not at.plan.protect and difference(at, tally if since is None else passed) < 0:
        tally.add(at.whole(replace(rules, drop_gone=True)))
    for item in tally.failed:
        log.error("late write to item %s: %s: %s; readers see the older one", item.object_id, item.stage, item.detail)
    if tally.changes:
        log.warning(
            "%s writes to the source came after the switch and were carried over; writers should follow alias '%s' now",
            tally.changes, at.plan.request.alias,
        )  # fmt: skip
    return tally.changes


def _delete_source(at: Session) -> bool:
    plan = at.plan
    if not plan.request.delete_source:
        return False
    store = at.tools.store
    if store.find(plan.source.collection_id) is not None:
        _refuse_busy(store, plan.source.collection_id, plan.token)
        store.drop(plan.source.collection_id)
        log.info("removed the source collection '%s'", plan.source.collection_id)
    return True


def _refuse_busy(store: Store, collection_id: str, token: str = "") -> None:
    """Refuse to touch a collection that a run which gives signs of life builds or reads."""
    for claim in store.claims():
        if claim.token != token and claim.silent < ALIVE_SECONDS and collection_id in (claim.dest, claim.source):
            what = "being built by" if claim.dest == collection_id else "being read by"
            raise ConflictError(f"collection '{collection_id}' is {what} {claim.owner}: wait for its end.")


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """
    A switch that was taken back.

    :param alias: what readers follow.
    :param collection_id: the collection that they follow again.
    :param embedding_model_id: the model that queries must be embedded with again.
    :param was: the collection that they followed until now.
    :param missing: items of that one that the old one lacks or has in another version.
    :param resurrected: items of the old one that had been removed since.
    :param named: the first of both.
    """

    alias: str
    collection_id: str
    embedding_model_id: str
    was: str
    missing: int
    resurrected: int
    named: list[str]


def roll_back(store: Store, alias: str, hook: Callable[[Pointer], None] | None, run_id: str) -> RolledBack:
    """
    Point an alias back to the collection before the last switch, and say which newer writes that one lacks.

    :param store: the store.
    :param alias: what readers follow.
    :param hook: tells a registry elsewhere.
    :param run_id: who does it.
    :returns: what was done.
    :raises RequestError: there is no such alias.
    :raises ConflictError: there is nothing to go back to.
    """
    pointer = store.pointer(alias)
    if pointer is None:
        raise RequestError(f"there is no alias '{alias}' in {store.label}.")
    old, new = pointer.previous_collection_id, pointer.collection_id
    if not old or store.find(old) is None:
        raise ConflictError(
            f"alias '{alias}' cannot be rolled back: "
            + (f"the collection '{old}' was removed." if old else "it has never been switched.")
        )
    if any(claim.dest == old for claim in store.claims()):
        _refuse_busy(store, old)
    missing, resurrected = _newer(store, old, new)
    back = Pointer(
        alias=alias,
        collection_id=old,
        embedding_model_id=pointer.previous_model_id,
        previous_collection_id=new,
        previous_model_id=pointer.embedding_model_id,
        run_id=run_id,
    )
    store.repoint(back, None)
    if hook is not None:
        hook(back)
    _note_hooked(store, back, None)
    return RolledBack(
        alias=alias,
        collection_id=old,
        embedding_model_id=back.embedding_model_id,
        was=new,
        missing=len(missing),
        resurrected=len(resurrected),
        named=[*missing[:NAMED], *resurrected[:NAMED]],
    )


def _newer(store: Store, old: str, new: str) -> tuple[list[str], list[str]]:
    one, other = store.open(old), store.open(new)
    missing: list[str] = []
    resurrected: list[str] = []
    after = None
    for keys in chain(one.keys(RANGE_ITEMS), [[]]):
        upto = keys[-1] if keys else None
        then, now = one.versions(after, upto), other.versions(after, upto)
        missing += [key for key, version in now.items() if then.get(key) != version]
        resurrected += [key for key in then if key not in now]
        after = upto
    return missing, resurrected
