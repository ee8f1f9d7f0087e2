"""The last verification before a switch, while writers of the source are held."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.sync.foreign import refuse_empty
from airflow_reindex.vectors.sync.reconcile import Tally
from airflow_reindex.vectors.sync.session import RANGE_ITEMS, Session

#: Full passes under the lock until destination and source agree: others may write to the destination meanwhile.
PASSES = 3


def last_catch_up(at: Session, watermark: str, passed: Tally) -> tuple[Tally, Tally]:
    """
    Catch up while writers of the source are held.

    Only rows written since the watermark are compared; removals show in the count and are then found by key.

    :param watermark: the source's watermark from before the last full pass.
    :param passed: the result of that pass.
    :returns: what was done, and the last full pass with the failures of all passes.
    """
    tally = at.reconciler.run(None, None, at.rules(skip_failed=True), since=watermark)
    if at.preserve_newer:
        return tally, passed
    if difference(at, passed) < 0:
        for keys in at.dest.keys(RANGE_ITEMS):
            gone = at.source.missing_keys(keys)
            left = at.dest.delete(at.plan.token, gone, only_unchanged=at.preserves_foreign)
            tally.deleted += len(gone) - len(left)
    for _ in range(PASSES):
        if not difference(at, passed):
            break
        again = at.reconcile_all()
        again.failed += passed.failed
        tally.embedded, tally.deleted = tally.embedded + again.embedded, tally.deleted + again.deleted
        passed = again
    return tally, passed


def difference(at: Session, passed: Tally) -> int:
    """
    Number of items that the destination lacks beyond failures and foreign removals; negative: surplus.

    :param passed: the last full pass, which knows what others have written and removed.
    """
    expected = at.source.count() - at.dest.count_failed(at.plan.token) - passed.removed + passed.surplus
    return expected - at.dest.count()


def still_failed(at: Session, failed: Sequence[FailedItem]) -> list[FailedItem]:
    """
    Return those that are still marked as failed, each with its latest reason.

    :param failed: failures of all passes, in order.
    """
    known = {item.object_id: item for item in failed}
    states = at.dest.states(None, None, list(known))
    return [item for key, item in known.items() if (state := states.get(key)) and state.sync and state.sync.stage]


def prove(at: Session, failed: int, passed: Tally) -> None:
    """
    Compare counts before the switch, while nobody writes.

    :param failed: number of failed items.
    :param passed: the last full pass.
    :raises DataError: the destination is not the source minus the failures, or too many items failed.
    """
    plan = at.plan
    total = at.source.count()
    if plan.request.limit.forbids_switch(failed, total):
        raise DataError(
            f"{failed:,} of {total:,} items failed, and max_failed={plan.request.limit} allows no switch with that: "
            "readers stay on the old collection. The failed items are in the report; mend them and clear the tasks "
            "'reindex', or set max_failed to at least that number.",
            code=Code.FAILED_ITEMS,
        )
    refuse_empty(at.dest, total, failed)
    lacking = difference(at, passed)
    if lacking and not at.preserve_newer:
        raise DataError(
            f"the destination '{plan.dest.collection_id}' has {abs(lacking):,} items "
            f"{'less' if lacking > 0 else 'more'} than the source minus the failed ones and those of others: "
            "readers stay on the old collection. Somebody else writes to the destination at this very moment; keep "
            "them out, or set writes_go_to=dest."
        )
    if not at.dest.has_index():
        raise DataError(f"the ANN index of '{plan.dest.collection_id}' is gone: clear the task 'verify'.")
