"""What others have written to a destination: what that means is said, and nothing is proven by its absence."""

from __future__ import annotations

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Collection
from airflow_reindex.vectors.model.plan import ReindexPlan
from airflow_reindex.vectors.sync.decide import Rules


def rules_of(plan: ReindexPlan, *, protect: bool, skip_failed: bool = False) -> Rules:
    """
    What may be done to a plan's destination.

    :param plan: the plan.
    :param protect: whether the destination may be newer than the source: then removals from it mean nothing.
    :param skip_failed: leave alone what has failed in this run already.
    """
    return Rules(
        recipe=bytes.fromhex(plan.recipe),
        # Of the plan rather than the run: when it is made anew, what has failed before does not count.
        run=plan.token,
        protect=protect or not plan.request.overwrite_foreign,
        drop_gone=not protect,
        drop_failed=not protect,
        skip_failed=skip_failed,
    )


def explain(count: int, dest: str) -> str:
    """
    What it means that objects were left alone, and what to do.

    :param count: how many.
    :param dest: the destination.
    """
    return (
        f"{count:,} objects of the destination '{dest}' were written, changed or removed there by others, and were "
        "left as they are: it does not have the source's versions of them. If writers write to the destination by "
        "now, set writes_go_to=dest, so that nothing is removed from it either, or end the schedule of this run. If "
        "nobody should have written there, one run with overwrite_foreign=true makes them as the source has them."
    )


def refuse_empty(dest: Collection, seen: int, failed: int) -> None:
    """
    Refuse to call a destination done that has nothing of what it should have.

    :param dest: the destination.
    :param seen: the source's items.
    :param failed: how many of them failed.
    :raises DataError: it is empty, and others have removed what it had.
    """
    if seen > failed and dest.count() == 0:
        name = dest.info.collection_id
        raise DataError(
            f"the destination '{name}' is empty, although {seen - failed:,} items have landed in it: others have "
            "removed them, and nothing that was removed there comes back by itself. Run once with "
            "overwrite_foreign=true, or drop its tables, and the next run fills it anew."
        )
