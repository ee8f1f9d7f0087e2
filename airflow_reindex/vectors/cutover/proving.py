"""The last proof before a switch, while writers of the source are held: the destination is what it should be."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.embedding.bisect import Failed
from airflow_reindex.vectors.sync.foreign import refuse_empty
from airflow_reindex.vectors.sync.reconcile import Tally
from airflow_reindex.vectors.sync.session import RANGE_ITEMS, Session

#: Passes over everything under the lock, until destination and source agree: others may write to the destination.
PASSES = 3


def last_catch_up(at: Session, horizon: str, passed: Tally) -> tuple[Tally, Tally]:
    """
    Catch up while writers of the source are held.

    Only rows written since the horizon are compared; what was removed shows in the count, and is looked for by its key.

    :param at: the session.
    :param horizon: the source's moment before the last pass over everything.
    :param passed: what that pass has found.
    :returns: what was done, and the last pass over everything, with the failures of all.
    """
    tally = at.reconciler.run(None, None, at.rules(skip_failed=True), since=horizon)
    if at.protect:
        return tally, passed
    if difference(at, passed) < 0:
        for keys in at.dest.keys(RANGE_ITEMS):
            gone = at.source.absent(keys)
            left = at.dest.delete(at.plan.token, gone, only_unchanged=at.spares)
            tally.deleted += len(gone) - len(left)
    for _ in range(PASSES):
        if not difference(at, passed):
            break
        again = at.whole()
        again.failed += passed.failed
        tally.embedded, tally.deleted = tally.embedded + again.embedded, tally.deleted + again.deleted
        passed = again
    return tally, passed


def difference(at: Session, passed: Tally) -> int:
    """
    How many items the destination lacks that have not failed, and that nobody has removed; negative: surplus.

    :param at: the session.
    :param passed: the last pass over everything: it knows what others have written and removed.
    """
    expected = at.source.count() - at.dest.count_failed(at.plan.token) - passed.removed + passed.surplus
    return expected - at.dest.count()


def still_failed(at: Session, failed: Sequence[Failed]) -> list[Failed]:
    """
    Those that are marked as failed by now; the latest word of each.

    :param at: the session.
    :param failed: what passes have said, in their order.
    """
    known = {item.object_id: item for item in failed}
    states = at.dest.states(None, None, list(known))
    return [item for key, item in known.items() if (state := states.get(key)) and state.mark and state.mark.stage]


def prove(at: Session, failed: int, passed: Tally) -> None:
    """
    The last word before the switch: counts, while nobody writes.

    :param at: the session.
    :param failed: how many items failed.
    :param passed: the last pass over everything.
    :raises DataError: the destination is not the source minus the failures, or too many failed.
    """
    plan = at.plan
    total = at.source.count()
    if plan.request.limit.forbids_switch(failed, total):
        raise DataError(
            f"{failed:,} of {total:,} items failed, and max_failed={plan.request.limit} allows no switch with that: "
            "readers stay on the old collection. The failed items are in the report; mend them and clear the tasks "
            "'reindex', or set max_failed to at least that number."
        )
    refuse_empty(at.dest, total, failed)
    lacking = difference(at, passed)
    if lacking and not at.protect:
        raise DataError(
            f"the destination '{plan.dest.collection_id}' has {abs(lacking):,} items "
            f"{'less' if lacking > 0 else 'more'} than the source minus the failed ones and those of others: "
            "readers stay on the old collection. Somebody else writes to the destination at this very moment; keep "
            "them out, or set writes_go_to=dest."
        )
    if not at.dest.has_index():
        raise DataError(f"the ANN index of '{plan.dest.collection_id}' is gone: clear the task 'verify'.")
