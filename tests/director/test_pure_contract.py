"""The rules of Qserv's service, without a service."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.director.contract import (
    MIN_VERSION,
    NO_VERSION,
    VERSION,
    ContractError,
    KeyRefusedError,
    answer,
    check_key,
    check_version,
    envelope,
    read_body,
    read_index_call,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FAILED = {"Object": {"db01": {"122": "gone", "3456": "full"}, "db23": {"123": "away"}}}
CALL = read_index_call({"database": "d", "director_table": "Object", "version": 55}, None, 0)


@pytest.mark.parametrize("value", [22, 49, 55, "55", " 49 "])
def test_versions_that_are_served(value: object) -> None:
    assert check_version(value) == ""


@pytest.mark.parametrize("value", [None, 0, "0"])
def test_no_version(value: object) -> None:
    assert check_version(value) == NO_VERSION


@pytest.mark.parametrize("value", [1, 21, 56, "16", -1, "1x", "", 5.5, True, [], {}])
def test_versions_that_are_not(value: object) -> None:
    with pytest.raises(ContractError) as caught:
        check_version(value)
    assert caught.value.ext == {"min_version": MIN_VERSION, "max_version": VERSION}


@given(value=JSON)
def test_any_version_is_served_or_refused(value: Any) -> None:
    with suppress(ContractError):
        assert check_version(value) in ("", NO_VERSION)


def test_the_bodys_version_counts_more_than_the_querys() -> None:
    body = {"database": "d", "director_table": "t"}
    assert read_index_call({**body, "version": 49}, "7", 0).warning == ""
    assert read_index_call(body, "49", 0).warning == ""
    with pytest.raises(ContractError):
        read_index_call({**body, "version": 7}, "49", 0)


def test_defaults() -> None:
    assert CALL.conf == {"database": "d", "director_table": "Object", "rebuild": 0, "local": 0}
    assert CALL.wait
    assert read_index_call({"database": "d", "director_table": "t"}, 55, 1).conf["local"] == 1


def test_obsolete_options_are_warned_of() -> None:
    body = {"database": "d", "director_table": "t", "allow_for_published": 1, "local": 1}
    call = read_index_call(body, None, 0)
    assert call.warning == "; ".join(
        [
            NO_VERSION,
            "Option 'allow_for_published' is obsolete as of the version 22 of the API.",
            "Option 'local' is obsolete as of the version 20 of the API.",
        ]
    )
    assert call.conf["local"] == 1, "it is heeded all the same"


def test_runs_of_equal_requests_have_ids_that_begin_alike() -> None:
    body = {"database": "dé/b", "director_table": "t", "version": 55}
    first, same = read_index_call(body, None, 0), read_index_call({**body, "auth_key": "k", "version": 49}, None, 0)
    other = read_index_call({**body, "rebuild": 1}, None, 0)
    assert first.run_prefix == same.run_prefix != other.run_prefix
    assert first.run_prefix.startswith("qserv__d__b.t__")
    assert [first.number_of(f"{first.run_prefix}{end}") for end in ("7", "12", "x", "", "9" * 40)] == [7, 12, 0, 0, 0]
    assert first.number_of("manual__2026-01-01") == 0


@given(text=st.binary(max_size=60))
def test_any_body_is_an_object_or_refused(text: bytes) -> None:
    with suppress(ContractError):
        assert isinstance(read_body(text), dict)


def test_deep_bodies_are_refused() -> None:
    with pytest.raises(ContractError):
        read_body(b"[" * 60_000)


@given(body=st.dictionaries(st.sampled_from(["auth_key", "admin_auth_key", "x"]), JSON), key=st.text(), admin=st.text())
def test_only_the_configured_key_opens(body: dict[str, Any], key: str, admin: str) -> None:
    name = "admin_auth_key" if "admin_auth_key" in body else "auth_key"
    known = admin if name == "admin_auth_key" else key
    good = bool(known) and isinstance(body.get(name), str) and body[name] == known
    refused = pytest.raises(KeyRefusedError, match=r"^failed to pass authorization requirements, ex: ")
    with nullcontext() if good else refused:
        check_key(body, key, admin)


@given(
    body=st.dictionaries(st.sampled_from(["database", "director_table", "rebuild", "local", "wait", "version"]), JSON)
)
def test_any_request_is_read_or_refused(body: dict[str, Any]) -> None:
    try:
        call = read_index_call(body, None, 0)
    except ContractError:
        return
    assert call.conf["database"] == body["database"]


def test_answers() -> None:
    assert answer(CALL, "done", "", {}, flat=False) == envelope()
    failed = answer(CALL, "failed", "why", FAILED, flat=False)
    assert failed == {"success": 0, "error": "index creation failed", "error_ext": FAILED, "warning": ""}
    assert answer(CALL, "failed", "why", FAILED, flat=True)["error_ext"] == FAILED["Object"]
    assert answer(CALL, "canceled", "by admin", {}, flat=False)["error"] == "index creation failed: by admin"


@pytest.mark.parametrize(
    ("detail", "error"),
    [
        ("no such database 'd' in x", "operation failed due to: CONFIG  _databaseInfo no such database 'd'."),
        (
            "no such table 'Object' found in the database 'd': no worker has it",
            "operation failed due to: DatabaseInfo::findTable no such table 'Object' found in the database 'd'.",
        ),
        (
            "the director table 'Object' of the database 'd' is not published.",
            " the director table 'Object' of the database 'd' is not published.",
        ),
        (
            "table 'Object' is not configured as a director table in database 'd'",
            "table 'Object' is not configured as a director table in database 'd'",
        ),
        (
            "director table has not been properly configured in database 'd': no director key",
            "director table has not been properly configured in database 'd'",
        ),
        ("Table 'd__Object' already exists", "operation failed due to: Table 'd__Object' already exists"),
    ],
)
def test_refusals_in_the_services_words(detail: str, error: str) -> None:
    assert answer(CALL, "refused", detail, {}, flat=False) == envelope(error)
