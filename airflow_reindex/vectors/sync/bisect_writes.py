"""Bisection of refused writes: halved until the refused item is alone, so that all others are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Embedded, Stage
from airflow_reindex.vectors.model.failed_item import FailedItem


def write_items(
    put: Callable[[Sequence[Embedded]], object], items: Sequence[Embedded]
) -> tuple[list[Embedded], list[FailedItem]]:
    """
    Write items, and separate those that the store refuses.

    :param put: writes all of a batch or nothing.
    :returns: written and failed items.
    """
    if not items:
        return [], []
    try:
        put(items)
    except DataError as error:
        if len(items) == 1:
            return [], [FailedItem.of(items[0].item, Stage.UPSERT, error)]
        middle = len(items) // 2
        one, other = write_items(put, items[:middle]), write_items(put, items[middle:])
        return one[0] + other[0], one[1] + other[1]
    return list(items), []
