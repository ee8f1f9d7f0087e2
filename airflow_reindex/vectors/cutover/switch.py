"""Switch of readers: last catch-up and repointing while writers are held."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from airflow_reindex.vectors.cutover.pointers import note_hooked, refuse_busy
from airflow_reindex.vectors.cutover.proof import difference, last_catch_up, prove, still_failed
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.model.plan import ReindexPlan
from airflow_reindex.vectors.model.store import Pointer, Store
from airflow_reindex.vectors.planning.planning import check_pointer, check_user_objects
from airflow_reindex.vectors.sync.foreign import rules_of
from airflow_reindex.vectors.sync.reconcile import Tally
from airflow_reindex.vectors.sync.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Switched:
    """
    The result of a switch.

    :param previous: the collection that readers followed before; empty for a new alias.
    :param items: originals in the collection that they follow now.
    :param caught_up: items embedded or removed while writers were held.
    :param late_writes: writes that waited for the lock, and were carried over after the switch.
    :param failed: items missing in the new collection, all of them listed.
    """

    alias: str
    previous: str
    items: int
    caught_up: int = 0
    late_writes: int = 0
    failed: int = 0
    source_deleted: bool = False


def already_switched(store: Store, plan: ReindexPlan) -> Switched | None:
    """Return the switch when nothing is left to do (an earlier attempt died after its last action), else ``None``."""
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
    account: Callable[[int, list[FailedItem], int], object],
) -> Switched:
    """
    Do the last catch-up, and point the alias to the destination.

    :param hook: informs a registry elsewhere; a retry of the task calls it again unless it has succeeded.
    :param lock_seconds: longest wait for writers of the source.
    :param account: gets, before the switch, the number of items, the failed ones and the number of foreign objects.
    :raises DataError: the destination is not the source minus the listed failures, or too many items failed.
    :raises ConflictError: users' objects would be lost.
    :raises TransientError: writers or readers hold what has to be locked.
    """
    plan, store, alias = at.plan, at.context.store, at.plan.request.alias
    pointer = store.pointer(alias)
    if pointer and pointer.collection_id == plan.dest.collection_id:
        return _finish_switch(at, hook, lock_seconds, pointer)
    _check_readers(at, pointer)
    watermark = at.source.watermark()
    passed = at.reconcile_all()
    with store.hold_writers(plan.source.collection_id, lock_seconds):
        # Checked again: from here on no other run can switch readers of the source, and no users' objects can appear.
        present = store.pointer(alias)
        twice = present if present and _is_own(present, plan) else None
        if twice is None:
            _check_readers(at, present)
            caught_up, passed = last_catch_up(at, watermark, passed)
            failed = still_failed(at, passed.failed + caught_up.failed)
            account(at.source.count(), failed, passed.left_alone)
            prove(at, len(failed), passed)
            items, after = at.dest.count(), at.source.watermark()
            switched = _repoint(at, present, hook)
    if twice is not None:
        # The same task was delivered twice and the other one switched first: readers may have written since.
        return _finish_switch(at, hook, lock_seconds, twice)
    late_writes = _late_writes(at, after, lock_seconds, passed)
    note_hooked(store, switched, plan.token)
    return Switched(
        alias=alias,
        previous=switched.previous_collection_id,
        items=items,
        caught_up=caught_up.changes,
        late_writes=late_writes,
        failed=len(failed),
        source_deleted=_delete_source(at),
    )


def _check_readers(at: Session, pointer: Pointer | None) -> None:
    check_pointer(pointer, at.plan.source, at.plan.dest)
    check_user_objects(at.source, at.plan.request)


def _is_own(pointer: Pointer, plan: ReindexPlan) -> bool:
    """Whether this run itself has switched."""
    return (pointer.collection_id, pointer.run_id) == (plan.dest.collection_id, plan.run_id)


def _finish_switch(
    at: Session, hook: Callable[[Pointer], None] | None, lock_seconds: float, pointer: Pointer
) -> Switched:
    """Finish a switch that an earlier attempt, or an earlier run, has done."""
    plan, store = at.plan, at.context.store
    late_writes = 0
    if not pointer.hooked:
        if hook is not None:
            hook(pointer)
        # After an earlier run's switch the source is no longer authoritative.
        if pointer.run_id == plan.run_id:
            late_writes = _late_writes(at, None, lock_seconds, Tally())
        note_hooked(store, pointer, plan.token)
    _delete_source(at)
    switched = already_switched(store, plan)
    switched = switched or Switched(alias=pointer.alias, previous="", items=at.dest.count())
    return replace(switched, late_writes=late_writes)


def _repoint(at: Session, present: Pointer | None, hook: Callable[[Pointer], None] | None) -> Pointer:
    plan = at.plan
    pointer = Pointer(
        alias=plan.request.alias,
        collection_id=plan.dest.collection_id,
        embedding_model_id=plan.dest.embedding_model_id,
        previous_collection_id=plan.source.collection_id if present is None else present.collection_id,
        previous_model_id=plan.request.source_embedding_model_id,
        run_id=plan.run_id,
    )
    at.context.store.repoint(pointer, plan.token)
    log.info("alias '%s' follows collection '%s'", pointer.alias, pointer.collection_id)
    if hook is not None:
        hook(pointer)
    return pointer


def _late_writes(at: Session, since: str | None, lock_seconds: float, passed: Tally) -> int:
    """Carry over late writes: those that had waited for the lock and reached the source after the switch."""
    # Writers that waited are ahead of this request in the lock queue, so they have finished when it is granted.
    with at.context.store.hold_writers(at.plan.source.collection_id, lock_seconds):
        left = at.source.count()
    rules = rules_of(at.plan, preserve_newer=True, skip_failed=True)
    tally = at.reconcile_all(rules) if since is None else at.reconciler.run(None, None, rules, since=since)
    # Where writers write to the destination, removals from the source mean nothing; and emptying the old collection is
    # not meant for the new one.
    if left and not at.plan.preserve_newer and difference(at, tally if since is None else passed) < 0:
        tally.add(at.reconcile_all(replace(rules, drop_gone=True)))
    for item in tally.failed:
        log.error("late write to item %s: %s; readers see the older one", item.object_id, item.message)
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
    store = at.context.store
    if store.find(plan.source.collection_id) is not None:
        refuse_busy(store, plan.source.collection_id, plan.token)
        store.drop(plan.source.collection_id)
        log.info("removed the source collection '%s'", plan.source.collection_id)
    return True
