"""Errors: the classes that decide on a retry, the codes that say what they are about, and the length of a detail."""

from __future__ import annotations

import ast
import copy
import errno
from pathlib import Path

import pytest

from airflow_reindex.core.failures import (
    DETAIL_LIMIT,
    ClaimLostError,
    Code,
    ConflictError,
    DataError,
    ReindexError,
    RequestError,
    SpaceError,
    TransientError,
    reason_of,
    truncate_detail,
)
from airflow_reindex.core.staging import DiskFullError

PACKAGE = Path(__file__).parents[2] / "airflow_reindex"


def test_a_conflict_is_a_refusal_and_the_others_are_not() -> None:
    assert issubclass(ConflictError, RequestError)
    for kind in (TransientError, DataError, ClaimLostError):
        assert issubclass(kind, ReindexError)
        assert not issubclass(kind, RequestError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("  a text\n", "a text"),
        (DataError("wrong"), "wrong"),
        (DataError(), "DataError"),
        (ValueError("wrong"), "ValueError: wrong"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        ("", ""),
        ("x" * (DETAIL_LIMIT - 1), "x" * (DETAIL_LIMIT - 1)),
        ("x" * DETAIL_LIMIT, "x" * DETAIL_LIMIT),
    ],
)
def test_detail(error: BaseException | str, expected: str) -> None:
    assert truncate_detail(error) == expected


def test_a_long_detail_keeps_its_end() -> None:
    text = truncate_detail("begin" + "x" * DETAIL_LIMIT + "the end")
    assert len(text) == DETAIL_LIMIT
    assert text.startswith("…x")
    assert text.endswith("the end")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ReindexError("x"), "other"),
        (RequestError("x"), "refused"),
        (ConflictError("x", holder="run 'a'"), "conflict"),
        (TransientError("x"), "busy"),
        (DataError("x"), "bad_data"),
        (SpaceError("x"), "disk_full"),
        (DiskFullError("x"), "disk_full"),
        (ClaimLostError("x"), "claim_lost"),
        (DataError("x", code=Code.DUPLICATE_KEYS), "duplicate_keys"),
        (ConflictError("x", code=Code.STALE_PLAN), "stale_plan"),
    ],
)
def test_codes_of_errors(error: ReindexError, code: str) -> None:
    assert error.code == code
    assert str(error) == "x"
    assert reason_of(error).code == code
    again = copy.copy(error)
    assert (str(again), again.code) == ("x", code), "it survives a copy, as to another process"


def test_a_code_of_one_error_is_not_its_classs() -> None:
    DataError("x", code=Code.DUPLICATE_KEYS)
    assert DataError("y").code is Code.BAD_DATA


def test_the_kinds_that_metrics_know() -> None:
    assert {code.metric for code in Code} == {
        "lost_task", "duplicate_keys", "missing_table", "access", "disk_full", "connection", "bad_data", "other",
    }  # fmt: skip
    assert Code.UNKNOWN_TABLE.metric is Code.OTHER
    assert Code.ACCESS.metric is Code.ACCESS


def test_each_code_is_set_somewhere() -> None:
    """What is only matched is not set."""
    trees = [ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")]
    matched = {
        id(part) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.match_case)
        for part in ast.walk(node.pattern)
    }  # fmt: skip
    used = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Code"
        if id(node) not in matched
    }
    assert used == {code.name for code in Code}


def test_the_manual_says_what_to_do_about_each_code() -> None:
    manual = (PACKAGE.parent / "docs" / "operations.md").read_text()
    assert [code.value for code in Code if f"`{code}`" not in manual] == []


def test_nobody_reads_the_text_of_an_error_of_ours() -> None:
    """Texts of drivers are another matter: some have nothing else."""
    drivers = {"vectors/stores/lancedb/database.py", "vectors/stores/pgvector/indexing.py"}
    found = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Compare) and any("str(error)" in ast.unparse(part) for part in node.comparators)
    }
    assert found == drivers


def fail(secret: str, depth: int) -> None:
    """Raise what nobody expects, below some frames."""
    if depth:
        fail(secret, depth - 1)
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize("depth", [0, 200])
def test_an_unexpected_error_has_type_and_traceback(depth: int) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        fail("-".join(("hunter", "2")), depth)
    reason = reason_of(caught.value)
    assert reason.code is Code.UNEXPECTED
    assert len(reason.text) <= DETAIL_LIMIT
    assert reason.text.endswith(
        'in fail\n    raise ZeroDivisionError("division by zero")\nZeroDivisionError: division by zero'
    )
    assert "hunter-2" not in reason.text, "a traceback has no values"


def test_a_long_message_leaves_room_for_type_and_traceback() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is what follows
        raise ValueError("m" * 5_000)
    text = truncate_detail(caught.value)
    assert "\nValueError: …mmm" in text
    assert "raise ValueError" in text


def test_what_caused_an_unexpected_error_is_not_quoted() -> None:
    error = KeyError("name")
    error.__cause__ = ValueError("password hunter2")
    assert truncate_detail(error) == "KeyError: 'name'"


def test_a_full_disk_that_nobody_expected() -> None:
    assert reason_of(OSError(errno.ENOSPC, "No space left on device")).code is Code.DISK_FULL
    assert reason_of(OSError(errno.EIO, "Input/output error")).code is Code.UNEXPECTED
