"""Rows of the driver, checked for what the index cannot hold."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.director.mysql.tuples import as_rows
from airflow_reindex.director.mysql.types import IntegerType
from tests.support.samples import tuples

BIGINT = IntegerType.parse("BIGINT", "k")
BIG_UNSIGNED = IntegerType.parse("BIGINT UNSIGNED", "k")
INT = IntegerType.parse("INT", "k")
TINY = IntegerType.parse("TINYINT UNSIGNED", "k")


@pytest.mark.parametrize(
    ("key", "sub_chunk", "batch"),
    [
        (BIGINT, INT, [(-(1 << 63), -(1 << 31)), ((1 << 63) - 1, (1 << 31) - 1)]),
        (BIG_UNSIGNED, INT, [((1 << 64) - 1, 0), (0, (1 << 31) - 1)]),
        (INT, TINY, [(-(1 << 31), 255), ((1 << 31) - 1, 0)]),
        (BIG_UNSIGNED, BIG_UNSIGNED, [((1 << 64) - 1, (1 << 64) - 1)]),
        (BIGINT, BIG_UNSIGNED, [(-1, (1 << 64) - 1)]),
        (BIG_UNSIGNED, INT, [((1 << 64) - 1, -1)]),
    ],
)
def test_extreme_values_are_kept(key: IntegerType, sub_chunk: IntegerType, batch: list[tuple[int, int]]) -> None:
    rows = as_rows(batch, 7, "k", key, sub_chunk)
    assert tuples(rows) == [(k, 7, s) for k, s in batch]
    assert (rows.key.dtype, rows.sub_chunk.dtype) == (key.dtype, sub_chunk.dtype)


@pytest.mark.parametrize(
    ("key", "sub_chunk", "batch", "message"),
    [
        (BIGINT, INT, [(1, 1), (None, 1), (None, 2)], "column 'k' is NULL in 2 row.s. of 3 read"),
        (BIGINT, INT, [(1, 1), (2, None)], "column 'subChunkId' is NULL in 1 row.s. of 2 read"),
        (BIG_UNSIGNED, INT, [(None, None)], "column 'k' is NULL"),
        (INT, INT, [(1 << 31, 1), (5, 1)], "column 'k' has 1 value.s. out of range for INT: 2147483648"),
        (INT, INT, [(-(1 << 31) - 1, 1)], "column 'k' has 1 value.s. out of range"),
        (BIGINT, INT, [(1 << 63, 1)], "column 'k' has 1 value.s. out of range for BIGINT: 9223372036854775808"),
        (BIGINT, INT, [(-(1 << 63) - 1, 1)], "column 'k' has 1 value"),
        (BIG_UNSIGNED, INT, [(-1, 1)], "column 'k' has 1 value.s. out of range for BIGINT UNSIGNED: -1"),
        (BIG_UNSIGNED, INT, [(1 << 64, 1)], "column 'k' has 1 value"),
        (
            BIGINT,
            TINY,
            [(1, 255), (1, 256)],
            "column 'subChunkId' has 1 value.s. out of range for TINYINT UNSIGNED: 256",
        ),
        (BIGINT, TINY, [(1, -1)], "column 'subChunkId' has 1 value"),
        (BIGINT, INT, [("abc", 1)], "column 'k' has 1 value.s. out of range for BIGINT: 'abc'"),
        (BIGINT, INT, [(1, b"abc")], "column 'subChunkId' has 1 value"),
        (BIGINT, INT, [(datetime.date(2026, 1, 1), 1)], "column 'k' has 1 value"),
        (BIGINT, INT, [(float("nan"), 1)], "column 'k' has 1 value"),
    ],
)
def test_what_the_index_cannot_hold_is_refused(
    key: IntegerType, sub_chunk: IntegerType, batch: list[tuple[Any, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        as_rows(batch, 7, "k", key, sub_chunk)


def test_a_long_list_of_bad_values_is_a_sample() -> None:
    with pytest.raises(DataError) as caught:
        as_rows([((1 << 40) + i, 1) for i in range(100)], 7, "k", INT, INT)
    assert "has 100 value(s)" in str(caught.value)
    assert str(caught.value).count(str(1 << 40)[:6]) == 5
