"""The steps of a reindex after its plan, one function per task; each can be repeated and does only what is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

from airflow_reindex.core.claims import Owner
from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import TASKS, recorded
from airflow_reindex.vectors import account
from airflow_reindex.vectors.account import failed_so_far, write_outcome
from airflow_reindex.vectors.cutover.comparison import Query, compare_models
from airflow_reindex.vectors.cutover.recall import measure_recall
from airflow_reindex.vectors.cutover.sameness import check_sameness
from airflow_reindex.vectors.cutover.switch import Switched, already_switched, switch_readers
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.model.plan import ReindexPlan, coarse_ranges, planned_items, read_plan
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.sync.context import ReindexContext
from airflow_reindex.vectors.sync.foreign import explain, refuse_empty
from airflow_reindex.vectors.sync.reconcile import Tally
from airflow_reindex.vectors.sync.session import RANGE_ITEMS, Session, session

log = logging.getLogger(__name__)

#: Most passes of the verification's catch-up with writers; the switch does the rest.
CATCH_UPS = 5
#: The tasks whose outcome covers the whole collection.
VERIFY, SWITCH = "verify", "switch"


def reindex_window(
    context: ReindexContext, folder: Folder, owner: Owner, token: str, number: int
) -> account.TaskOutcome:
    """
    Reconcile one window.

    :param token: the plan that the window belongs to.
    :raises DataError: too many items of the run have failed already.
    """
    before = folder.read_json(f"{TASKS}/reindex-{number}.json")
    with recorded(folder, "reindex", number, token) as record:
        plan = read_plan(folder, token)
        window = plan.windows[number]
        # The outcome of an earlier attempt at this window, and of a verification after it, no longer holds.
        for name in (str(number), VERIFY, SWITCH):
            folder.remove(f"{account.OUTCOMES}/{name}.json")
        with session(context, plan, owner) as at:
            failed = at.dest.count_failed(token)
            # Someone who clears a window may have repaired items, also those of other windows that are retried at the
            # same time.
            again = before is not None and before["token"] == token
            if not again and plan.request.limit.exceeded(failed, plan.total):
                raise DataError(f"not started: {_too_many(plan, failed, plan.total)}", code=Code.FAILED_ITEMS)
            only = frozenset(planned_items(folder, number)) if plan.listed_only else None
            tally = at.reconciler.run(
                window.after, window.until, at.rules(), only=only, contents=True, what=window.label
            )
        listed = [replace(f, collection=plan.source.collection_id, window=window.label) for f in tally.failed]
        outcome = write_outcome(folder, str(number), token, tally, listed)
        record.rows, record.result = outcome.seen, asdict(outcome)
        log.info(
            "%s: %s items, %s embedded, %s unchanged, %s deleted, %s failed, %s of others left alone",
            window.label, outcome.seen, outcome.embedded, outcome.unchanged, outcome.deleted, outcome.failed,
            outcome.left_alone,
        )  # fmt: skip
    return outcome


def _too_many(plan: ReindexPlan, failed: int, total: int) -> str:
    return (
        f"{failed:,} of {total:,} items failed, more than max_failed={plan.request.limit} allows. The failed items are "
        "in the report, each with its reason: mend them and clear the tasks 'reindex', or allow more in a new run."
    )


def verify(
    context: ReindexContext,
    folder: Folder,
    owner: Owner,
    *,
    least_recall: float,
    queries: list[Query] | None = None,
) -> dict[str, Any]:
    """
    Prove that every item of the source is in the destination or listed as failed, and that the ANN index finds it.

    :param least_recall: the lowest accepted recall@10.
    :param queries: for a comparison of both models' results.
    :returns: figures for the report.
    :raises DataError: too many items failed, vectors are missing or do not distinguish texts, or the recall is too low.
    """
    with recorded(folder, VERIFY) as record:
        plan = read_plan(folder)
        record.token = plan.token
        with session(context, plan, owner) as at:
            before = failed_so_far(folder, plan.token, plan.windows)
            if plan.request.limit.exceeded(len(before), plan.total):
                raise DataError(_too_many(plan, len(before), plan.total), code=Code.FAILED_ITEMS)
            caught_up = _catch_up(at)
            at.dest.build_index(plan.token)
            # Building the index takes long; this pass sends what was written meanwhile through it.
            tally = at.reconcile_all()
            tally.embedded, tally.deleted = tally.embedded + caught_up.embedded, tally.deleted + caught_up.deleted
            _check_vectors(at, tally)
            listed = _named(tally, before, plan)
            outcome = write_outcome(folder, VERIFY, plan.token, tally, listed)
            if plan.request.limit.exceeded(outcome.failed, outcome.seen):
                raise DataError(_too_many(plan, outcome.failed, outcome.seen), code=Code.FAILED_ITEMS)
            refuse_empty(at.dest, outcome.seen, outcome.failed)
            if outcome.left_alone:
                log.warning("%s", explain(outcome.left_alone, plan.dest.collection_id))
            record.rows = outcome.seen
            same = check_sameness(at, plan.request.max_same_vectors)
            record.result = {**asdict(outcome), **({"same_vectors": same} if same else {})}
            record.result |= measure_recall(at.dest, least_recall)
            if queries:
                record.result["quality"] = compare_models(context, at.source, at.dest, queries, folder)
    return record.result


def _catch_up(at: Session) -> Tally:
    """Repeat full passes until nothing is left, or writers are as fast as this run."""
    done = Tally()
    for number in range(1, CATCH_UPS + 1):
        tally = at.reconcile_all()
        done.embedded, done.deleted = done.embedded + tally.embedded, done.deleted + tally.deleted
        log.info("catch-up %s: %s items, %s embedded, %s deleted", number, tally.seen, tally.embedded, tally.deleted)
        if not tally.changes:
            break
    return done


def _check_vectors(at: Session, tally: Tally) -> None:
    """Embed again what lacks vectors; what fails now is added to the tally."""
    known = {item.object_id for item in tally.failed}
    for after, until in coarse_ranges(at.plan.windows, RANGE_ITEMS):
        at.check()
        incomplete, orphans = _incomplete(at, after, until)
        if not incomplete and not orphans:
            continue
        # Another writer removed their vectors: embed them again.
        rules = at.rules(skip_failed=True)
        mended = at.reconciler.run(after, until, rules, only=frozenset(incomplete), force=True, what="mend")
        tally.failed += [item for item in mended.failed if item.object_id not in known]
        incomplete, orphans = _incomplete(at, after, until)
        if incomplete or orphans:
            quoted = ", ".join(incomplete[:5])
            raise DataError(
                f"objects of the destination '{at.plan.dest.collection_id}' lack vectors ({quoted or 'parts without '}"
                f"{'' if quoted else 'objects'}): somebody else writes to it. Keep them out, or set writes_go_to=dest."
            )


def _incomplete(at: Session, after: str | None, until: str | None) -> tuple[list[str], int]:
    """Objects without vectors, and parts without objects; foreign ones are not counted where others may write."""
    errors = at.dest.integrity_errors(after, until)
    found, orphans = list(errors.incomplete), errors.orphans
    if not at.preserves_foreign:
        return found, orphans
    ours: list[str] = []
    while found:
        states = at.dest.states(None, None, found)
        ours += [key for key in found if key in states and not states[key].is_foreign]
        found = list(at.dest.integrity_errors(found[-1], until).incomplete)
    return ours, orphans


def _named(tally: Tally, before: list[FailedItem], plan: ReindexPlan) -> Iterator[FailedItem]:
    """Failures of the whole collection, with the details that windows reported where sync states have none."""
    known = {item.object_id: item for item in before}
    for item in tally.failed:
        then = known.get(item.object_id, item)
        info = item.item_info or then.item_info
        yield replace(item, collection=plan.source.collection_id, window=then.window, item_info=info)


def switch(
    context: ReindexContext,
    folder: Folder,
    owner: Owner,
    *,
    hook: Callable[[Pointer], None] | None,
    lock_seconds: float,
) -> Switched:
    """
    Switch readers over; when that has happened already, only finish it.

    :param hook: informs a registry elsewhere.
    :param lock_seconds: longest wait for writers of the source.
    """
    with recorded(folder, SWITCH) as record:
        plan = read_plan(folder)
        record.token = plan.token
        before = failed_so_far(folder, plan.token, plan.windows)

        def account_for(total: int, failed: list[FailedItem], left_alone: int) -> None:
            tally = Tally(seen=total, failed=failed, left_alone=left_alone)
            write_outcome(folder, SWITCH, plan.token, tally, _named(tally, before, plan))

        switched = already_switched(context.store, plan)
        if switched is None:
            with session(context, plan, owner) as at:
                switched = switch_readers(at, hook, lock_seconds, account_for)
        record.rows, record.result = switched.items, asdict(switched)
    return switched
