"""Errors: the classes that decide on a retry, and the length of a detail."""

from __future__ import annotations

import pytest

from airflow_reindex.core.failures import (
    DETAIL_LIMIT,
    ClaimLostError,
    ConflictError,
    DataError,
    ReindexError,
    RequestError,
    TransientError,
    detail,
)


def test_a_conflict_is_a_refusal_and_the_others_are_not() -> None:
    assert issubclass(ConflictError, RequestError)
    for kind in (TransientError, DataError, ClaimLostError):
        assert issubclass(kind, ReindexError)
        assert not issubclass(kind, RequestError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("  a text\n", "a text"),
        (ValueError("wrong"), "wrong"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "'x'"),
        ("", ""),
    ],
)
def test_detail(error: BaseException | str, expected: str) -> None:
    assert detail(error) == expected


@pytest.mark.parametrize("length", [DETAIL_LIMIT - 1, DETAIL_LIMIT])
def test_a_short_detail_is_whole(length: int) -> None:
    assert detail("x" * length) == "x" * length


def test_a_long_detail_keeps_its_end() -> None:
    text = detail("begin" + "x" * DETAIL_LIMIT + "the end")
    assert len(text) == DETAIL_LIMIT
    assert text.startswith("…x")
    assert text.endswith("the end")
