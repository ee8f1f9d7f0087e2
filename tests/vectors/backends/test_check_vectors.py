"""Which vectors cannot be stored or searched."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_reindex.vectors.embedding.requests import check_vectors

NOT_FINITE = "the model's vector has NaN or infinite numbers"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 2, 3], None),
        ([0, 0, 1e-5], None),
        ([1, float("nan"), 3], NOT_FINITE),
        ([1, float("inf"), 3], NOT_FINITE),
        ([1, float("-inf"), 3], NOT_FINITE),
        ([1e30, 0, 0], "the model's vector is too long to compare"),
        ([0, 0, 0], "the model's vector is zero, which has no direction to compare"),
        ([1e-30, 0, 0], "the model's vector is zero, which has no direction to compare"),
    ],
)
def test_rows(row: list[float], message: str | None) -> None:
    vectors = np.array([[1, 1, 1], row, [2, 2, 2]], dtype=np.float32)
    assert check_vectors(vectors, 3) == [None, message, None]


def test_zero_has_its_place_in_euclid() -> None:
    assert check_vectors(np.zeros((2, 3), dtype=np.float32), 3, "euclid") == [None, None]


def test_another_length_and_nothing() -> None:
    vectors = np.ones((2, 3), dtype=np.float32)
    assert check_vectors(vectors, 4) == ["the model returned 3 numbers instead of 4"] * 2
    assert check_vectors(vectors[:0], 3) == []
