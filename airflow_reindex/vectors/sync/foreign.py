"""Rows of other writers in a destination: how they are treated, explained and verified."""

from __future__ import annotations

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Collection
from airflow_reindex.vectors.model.plan import ReindexPlan
from airflow_reindex.vectors.sync.decide import Rules


def rules_of(plan: ReindexPlan, *, preserve_newer: bool, skip_failed: bool = False) -> Rules:
    """
    Return what may be done to a plan's destination.

    :param preserve_newer: the destination may be newer than the source, so removals from it are kept.
    :param skip_failed: skip what has failed in this run already.
    """
    return Rules(
        embedding_config_hash=bytes.fromhex(plan.embedding_config_hash),
        plan_token=plan.token,
        preserve_newer=preserve_newer or not plan.request.overwrite_foreign,
        drop_gone=not preserve_newer,
        drop_failed=not preserve_newer,
        skip_failed=skip_failed,
    )


def explain(count: int, dest: str) -> str:
    """Explain why objects were left alone, and what to do."""
    return (
        f"{count:,} objects of the destination '{dest}' were written, changed or removed there by others, and were "
        "left as they are: it does not have the source's versions of them. If writers write to the destination by "
        "now, set writes_go_to=dest, so that nothing is removed from it either, or end the schedule of this run. If "
        "nobody should have written there, one run with overwrite_foreign=true makes them as the source has them."
    )


def refuse_empty(dest: Collection, seen: int, failed: int) -> None:
    """
    Refuse an empty destination whose items others have removed.

    :param seen: number of the source's items.
    :param failed: number of them that failed.
    :raises DataError: it is empty.
    """
    if seen > failed and dest.count() == 0:
        name = dest.info.collection_id
        raise DataError(
            f"the destination '{name}' is empty, although {seen - failed:,} items have landed in it: others have "
            "removed them, and nothing that was removed there comes back by itself. Run once with "
            "overwrite_foreign=true, or drop its tables, and the next run fills it anew."
        )
