"""What MySQL's errors are about: their numbers decide, in one place."""

from __future__ import annotations

import MySQLdb
import pytest

from airflow_reindex.core.failures import Code, DataError, RequestError, TransientError
from airflow_reindex.director.mysql.bulk_load import explain_load_error
from airflow_reindex.director.mysql.client import mysql_reason


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (2002, "connection"),
        (2013, "connection"),
        (0, "connection"),
        (1040, "connection"),
        (1053, "connection"),
        (1152, "connection"),
        (1159, "connection"),
        (1161, "connection"),
        (1203, "connection"),
        (1927, "connection"),
        (1044, "access"),
        (1045, "access"),
        (1142, "access"),
        (1143, "access"),
        (1698, "access"),
        (1049, "missing_table"),
        (1146, "missing_table"),
        (1932, "missing_table"),
        (1062, "duplicate_keys"),
        (28, "disk_full"),
        (1021, "disk_full"),
        (1114, "disk_full"),
        (1054, "bad_data"),
        (1317, "other"),
        (1205, "other"),
        (1213, "other"),
    ],
)
def test_numbers(number: int, code: str) -> None:
    reason = mysql_reason(MySQLdb.OperationalError(number, "any words"))
    assert reason.code.metric == code
    assert reason.text == f"error: any words, errno: {number}"


def test_what_waited_in_vain_for_others() -> None:
    assert mysql_reason(MySQLdb.OperationalError(1205, "any words")).code is Code.BUSY


@pytest.mark.parametrize(
    ("number", "text", "full"),
    [
        (3, "Error writing file '/tmp/MY1' (Errcode: 28 \"No space left on device\")", True),
        (3, "Error writing file '/tmp/MY1' (Errcode: 5 \"Input/output error\")", False),
        (1026, "Error writing file '/tmp/MLfd=40' (OS errno 28 - No space left on device)", True),
        (1026, "Error writing file '/tmp/MLfd=40' (OS errno 5 - Input/output error)", False),
        (1030, 'Got error 28 "No space left on device" from storage engine Aria', True),
    ],
)
def test_a_full_disk_that_only_the_systems_error_tells(number: int, text: str, full: bool) -> None:
    error = MySQLdb.OperationalError(number, text)
    assert mysql_reason(error).code is (Code.DISK_FULL if full else Code.OTHER)
    explained = explain_load_error(error, local=True)
    assert isinstance(explained, RequestError) if full else explained is None
    assert not explained or explained.code is Code.DISK_FULL


def test_errors_of_ours_keep_their_codes() -> None:
    assert mysql_reason(DataError("no space left, errno: 1146", code=Code.INCOMPLETE_READ)).code is Code.INCOMPLETE_READ
    assert mysql_reason(TransientError("any words", code=Code.ACCESS)).code is Code.ACCESS


def test_a_mistake_of_the_program_is_none_of_the_server() -> None:
    reason = mysql_reason(MySQLdb.ProgrammingError("not enough arguments for format string"))
    assert (reason.code, reason.text) == (
        Code.UNEXPECTED, "ProgrammingError: not enough arguments for format string"
    )  # fmt: skip
