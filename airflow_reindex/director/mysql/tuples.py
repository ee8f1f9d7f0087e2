"""A driver's tuples to columns of a director index; values that the index cannot hold are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from airflow_reindex.core.failures import DataError
from airflow_reindex.director.mysql.types import IntegerType, Rows


def as_rows(
    batch: Sequence[tuple[Any, Any]], chunk: int, key_column: str, key: IntegerType, sub_chunk: IntegerType
) -> Rows:
    """
    Turn fetched tuples into columns.

    :param batch: pairs of key and sub-chunk.
    :param chunk: the chunk that they belong to.
    :raises DataError: for a NULL, or a value out of its column's range; the message has a sample.
    """
    try:
        if _wide(key) == _wide(sub_chunk):
            keys, subs = np.array(batch, dtype=_wide(key)).T
        else:
            columns = zip(*batch, strict=True)
            keys, subs = (np.array(next(columns), dtype=_wide(kind)) for kind in (key, sub_chunk))
        good = within(keys, key) and within(subs, sub_chunk)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(_complaint(batch, key_column, key, sub_chunk))
    return Rows(keys.astype(key.dtype), np.full(len(keys), chunk, np.int32), subs.astype(sub_chunk.dtype))


def _wide(kind: IntegerType) -> np.dtype[Any]:
    return np.dtype(np.uint64 if kind.high > np.iinfo(np.int64).max else np.int64)


def within(values: np.ndarray[Any, Any], kind: IntegerType) -> bool:
    """Whether a column of the type can hold the values, of which there is at least one."""
    return int(values.min()) >= kind.low and int(values.max()) <= kind.high


def _complaint(batch: Sequence[tuple[Any, Any]], key_column: str, key: IntegerType, sub_chunk: IntegerType) -> str:
    for position, (column, kind) in enumerate(((key_column, key), ("subChunkId", sub_chunk))):
        values = [row[position] for row in batch]
        nulls = sum(value is None for value in values)
        if nulls:
            return f"column '{column}' is NULL in {nulls} row(s) of {len(batch)} read; an index key cannot be NULL"
        strange = [v for v in values if not isinstance(v, int) or not kind.low <= v <= kind.high]
        if strange:
            sample = ", ".join(repr(value) for value in strange[:5])
            return f"column '{column}' has {len(strange)} value(s) out of range for {kind.sql}: {sample}"
    raise AssertionError("a batch was refused in which nothing is wrong")
