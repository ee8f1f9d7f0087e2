"""The rules of Qserv's service, without a service."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import Code, Reason
from airflow_reindex.dag_factory.director import director_index_params
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.plugin.contracts import qserv
from airflow_reindex.plugin.contracts.qserv_protocol import (
    MIN_VERSION,
    NO_VERSION,
    VERSION,
    ContractError,
    KeyRefusedError,
    answer,
    begun,
    check_key,
    check_version,
    envelope,
    read_body,
    read_index_call,
)
from tests.support.samples import examples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NOTHING, WHY = Reason(Code.OTHER, ""), Reason(Code.CONNECTION, "why")
FAILED = {"Object": {"db01": {"122": "gone", "3456": "full"}, "db23": {"123": "away"}}}
CALL = read_index_call({"database": "d", "director_table": "Object", "version": 55}, None, 0)


@pytest.mark.parametrize(
    ("value", "warning"),
    [*((value, "") for value in (22, 49, 55, "55", " 49 ")), *((value, NO_VERSION) for value in (None, 0, "0"))],
)
def test_versions_that_are_served(value: object, warning: str) -> None:
    assert check_version(value) == warning


@pytest.mark.parametrize("value", [1, 21, 56, "16", -1, "1x", "", 5.5, True, [], {}])
def test_versions_that_are_not(value: object) -> None:
    with pytest.raises(ContractError) as caught:
        check_version(value)
    assert caught.value.ext == {"min_version": MIN_VERSION, "max_version": VERSION}


@given(value=JSON)
@examples(100)
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
@examples(100)
def test_any_body_is_an_object_or_refused(text: bytes) -> None:
    with suppress(ContractError):
        assert isinstance(read_body(text), dict)


def test_deep_bodies_are_refused() -> None:
    with pytest.raises(ContractError):
        read_body(b"[" * 60_000)


@given(body=st.dictionaries(st.sampled_from(["auth_key", "admin_auth_key", "x"]), JSON), key=st.text(), admin=st.text())
@examples(100)
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
@examples(100)
def test_any_request_is_read_or_refused(body: dict[str, Any]) -> None:
    try:
        call = read_index_call(body, None, 0)
    except ContractError:
        return
    assert call.conf["database"] == body["database"]


def test_answers() -> None:
    assert answer(CALL, "done", NOTHING, {}, flat=False) == envelope()
    failed = answer(CALL, "failed", WHY, FAILED, flat=False)
    assert failed == {"success": 0, "error": "index creation failed", "error_ext": FAILED, "warning": ""}
    assert answer(CALL, "failed", WHY, FAILED, flat=True)["error_ext"] == FAILED["Object"]
    assert (
        answer(CALL, "canceled", Reason(Code.OTHER, "by admin"), {}, flat=False)["error"]
        == "index creation failed: by admin"
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("unknown_database", "operation failed due to: CONFIG  _databaseInfo no such database 'd'."),
        (
            "unknown_table",
            "operation failed due to: DatabaseInfo::findTable no such table 'Object' found in the database 'd'.",
        ),
        ("unpublished_table", " the director table 'Object' of the database 'd' is not published."),
        ("no_director_key", "director table has not been properly configured in database 'd'"),
        ("not_director_table", "any words"),
        ("no_schema", "any words"),
        ("missing_column", "any words"),
        ("conflict", "operation failed due to: any words"),
        ("other", "operation failed due to: any words"),
    ],
)
def test_refusals_in_the_services_words(code: str, error: str) -> None:
    assert answer(CALL, "refused", Reason(Code(code), "any words"), {}, flat=False) == envelope(error)


def test_words_alone_decide_nothing() -> None:
    said = "no such database 'd' in x"
    found = answer(CALL, "refused", Reason(Code.CONFLICT, said), {}, flat=False)
    assert found["error"] == f"operation failed due to: {said}"


BODY = {"database": "d", "director_table": "t", "version": 55}
#: The params of the DAG, as the API server knows them.
KNOWN = {name: param.value for name, param in director_index_params().items()}


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("dry_run", True, 1),
        ("keep_previous", "true", 1),
        ("force_takeover", 1, 1),
        ("allow_unlisted_chunks", 1, 1),
        ("changed_chunks", "FAIL", "fail"),
        ("director_key", "id", "id"),
        ("max_rows_per_second", "5000", 5_000),
        ("max_connections", 3, 3),
    ],
)
@pytest.mark.parametrize("known", [None, KNOWN])
def test_the_dags_own_params_are_heeded(name: str, given: object, taken: object, known: dict[str, Any] | None) -> None:
    call = read_index_call({**BODY, name: given}, None, 0, known)
    assert (call.conf[name], call.warning) == (taken, "")
    assert call.run_prefix != read_index_call(BODY, None, 0, known).run_prefix, (
        "no client joins what it did not ask for"
    )


def test_every_param_of_the_dag_but_the_connection_can_be_set() -> None:
    heeded = BuildRequest.parse({"database": "d", "director_table": "t"}).as_params().keys()
    assert set(heeded) == set(director_index_params()) - {"qserv_conn_id"}
    described: Any = qserv._REQUEST["properties"]
    assert set(described) >= set(heeded)


@pytest.mark.parametrize("known", [None, KNOWN])
def test_connections_are_not_chosen_by_clients(known: dict[str, Any] | None) -> None:
    with pytest.raises(ContractError, match="qserv_conn_id cannot be set"):
        read_index_call({**BODY, "qserv_conn_id": "qserv_other"}, None, 0, known)


@pytest.mark.parametrize("name", ["dry_run", "max_connections", "max_rows_per_second", "rebuild"])
def test_params_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ContractError, match=f"the parameter {name} takes a"):
        read_index_call({**BODY, name: "maybe"}, None, 0, KNOWN)


def test_what_the_dag_does_anyway_is_the_same_request() -> None:
    usual = {**BODY, "dry_run": 0, "keep_previous": "no", "director_key": None, "max_connections": "0"}
    assert read_index_call(usual, None, 0, KNOWN).conf == read_index_call(BODY, None, 0, KNOWN).conf
    bound = {**KNOWN, "keep_previous": True}
    assert read_index_call({**BODY, "keep_previous": 0}, None, 0, bound).conf["keep_previous"] == 0


def test_a_dag_gets_further_params_that_it_has_and_none_that_it_has_not() -> None:
    assert read_index_call({**BODY, "mail": "x@y"}, None, 0, {**KNOWN, "mail": ""}).conf["mail"] == "x@y"
    known = {name: value for name, value in KNOWN.items() if name != "dry_run"}
    with pytest.raises(ContractError, match="has no param dry_run"):
        read_index_call({**BODY, "dry_run": 1}, None, 0, known)


def test_unknown_fields_are_named() -> None:
    call = read_index_call({**BODY, "dryrun": 1, "rebuild ": 1}, None, 0, KNOWN)
    assert call.warning == (
        "Option 'dryrun' is unknown to this service, and was ignored.; "
        "Option 'rebuild ' is unknown to this service, and was ignored."
    )
    many = read_index_call({**BODY, **{f"x{i}": i for i in range(50)}}, None, 0, KNOWN)
    assert many.warning.endswith("So were 30 more options.")


def test_a_dry_run_says_that_nothing_was_built() -> None:
    call = read_index_call({**BODY, "dry_run": True}, None, 0, KNOWN)
    found = answer(call, "pending", Reason(Code.OTHER, "the checks passed"), {}, flat=False)
    assert (found["success"], found["warning"]) == (1, "dry_run: nothing was built (the checks passed)")
    assert begun(call, "r", "d")["warning"] == "dry_run: nothing will be built"
    assert "dry_run was not heeded" in answer(call, "done", NOTHING, {}, flat=False)["warning"]
    bound = read_index_call(BODY, None, 0, {**KNOWN, "dry_run": True})
    assert answer(bound, "pending", Reason(Code.OTHER, "dry run"), {}, flat=False)["success"] == 0, (
        "it has not asked for a dry run"
    )
    asked = read_index_call({**BODY, "dry_run": 1}, None, 0, {**KNOWN, "dry_run": True})
    assert answer(asked, "pending", Reason(Code.OTHER, "dry run"), {}, flat=False)["success"] == 1
