"""Numbers among a run's params."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.params import whole_number
from airflow_reindex.director.model.limits import LEAST_RATE, MAX_CONNECTIONS, Limits


@pytest.mark.parametrize(
    ("given", "number"),
    [(None, 0), ("", 0), (" ", 0), (0, 0), ("0", 0), (7, 7), ("7", 7), (" 12 ", 12), ("007", 7), (10**14, 10**14)],
)
def test_whole_numbers(given: Any, number: int) -> None:
    assert whole_number(given, "max_connections") == number


@pytest.mark.parametrize("given", [True, False, -1, "-1", "+1", 1.5, "1.0", "1e3", "x", [1], {}, b"1", 10**15])
def test_nonsense_is_refused_with_its_name(given: Any) -> None:
    with pytest.raises(RequestError, match="the parameter max_connections takes a whole number from 0"):
        whole_number(given, "max_connections")


@pytest.mark.parametrize(
    ("params", "limits"),
    [
        ({}, Limits()),
        ({"max_rows_per_second": None, "max_connections": ""}, Limits()),
        ({"max_rows_per_second": 0, "max_connections": 0}, Limits()),
        ({"max_rows_per_second": LEAST_RATE}, Limits(LEAST_RATE, 0)),
        ({"max_rows_per_second": "200000", "max_connections": "3"}, Limits(200_000, 3)),
        ({"max_connections": 1}, Limits(0, 1)),
        ({"max_connections": MAX_CONNECTIONS}, Limits(0, MAX_CONNECTIONS)),
    ],
)
def test_limits(params: dict[str, Any], limits: Limits) -> None:
    assert Limits.parse(params) == limits


def test_a_rate_at_which_a_transaction_would_not_end_is_refused() -> None:
    with pytest.raises(RequestError, match=rf"max_rows_per_second takes 0 \(no limit\) or at least {LEAST_RATE}"):
        Limits.parse({"max_rows_per_second": LEAST_RATE - 1})


def test_more_connections_than_anybody_counts_are_refused() -> None:
    with pytest.raises(RequestError, match=rf"max_connections takes 0 \(no limit\) or at most {MAX_CONNECTIONS}"):
        Limits.parse({"max_connections": MAX_CONNECTIONS + 1})
