"""The params of a build: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.params import flag
from airflow_reindex.director.model.request import FLAGS, BuildRequest

NAMES = {"database": "lsst", "director_table": "Object"}


def test_defaults() -> None:
    request = BuildRequest.parse(NAMES)
    assert request == BuildRequest(**NAMES)  # type: ignore[arg-type]
    assert not any(getattr(request, name) for name in FLAGS)
    assert request.unique_primary_key is None
    assert request.director_key is None
    assert request.index_table == "lsst__Object"


@pytest.mark.parametrize("name", FLAGS)
def test_each_flag_sets_its_own_field(name: str) -> None:
    request = BuildRequest.parse({**NAMES, name: 1})
    assert {field for field in FLAGS if getattr(request, field)} == {name}


@pytest.mark.parametrize(
    ("given", "unique"), [(None, None), ("", None), (0, False), ("0", False), (False, False), (1, True), ("true", True)]
)
def test_unique_primary_key_may_be_left_open(given: object, unique: bool | None) -> None:
    assert BuildRequest.parse({**NAMES, "unique_primary_key": given}).unique_primary_key is unique


@pytest.mark.parametrize(("given", "key"), [(None, None), ("", None), ("id", "id"), ("a`b", "a`b")])
def test_director_key_may_be_left_open(given: str | None, key: str | None) -> None:
    assert BuildRequest.parse({**NAMES, "director_key": given}).director_key == key


@pytest.mark.parametrize("missing", ["database", "director_table"])
@pytest.mark.parametrize("value", [None, "", "absent"])
def test_a_missing_name_is_named(missing: str, value: str | None) -> None:
    params: dict[str, Any] = {**NAMES, missing: value}
    if value == "absent":
        del params[missing]
    with pytest.raises(RequestError, match=rf"^required parameter {missing} is missing in the request\.$"):
        BuildRequest.parse(params)


@pytest.mark.parametrize("name", ["database", "director_table", "director_key"])
@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}, True, "a\nb", "a ", "x" * 65, "\U0001f600"])
def test_what_is_no_name_is_refused(name: str, value: object) -> None:
    with pytest.raises(RequestError):
        BuildRequest.parse({**NAMES, name: value})


@pytest.mark.parametrize("name", ["it's", 'a"b', "a`b", "a.b", "a;b", "%s", "größe"])
def test_odd_names_are_taken_as_they_are(name: str) -> None:
    request = BuildRequest.parse({"database": name, "director_table": name, "director_key": name})
    assert (request.database, request.director_table, request.director_key) == (name, name, name)


@pytest.mark.parametrize(("database", "table", "fits"), [(30, 32, True), (31, 32, False), (64, 1, False)])
def test_the_index_name_has_at_most_64_characters(database: int, table: int, fits: bool) -> None:
    params = {"database": "d" * database, "director_table": "t" * table}
    if fits:
        assert len(BuildRequest.parse(params).index_table) == 64
        return
    with pytest.raises(RequestError, match=r"limit of 64 characters has been exceeded for table 'ddd.*__t"):
        BuildRequest.parse(params)


def test_unknown_params_do_no_harm() -> None:
    assert BuildRequest.parse({**NAMES, "qserv_conn_id": "q", "x": 1}) == BuildRequest.parse(NAMES)


YES = [True, 1, 2, -1, 1.0, 10**30, "1", " 1 ", "+1", "-1", "01", "true", "TRUE", "Yes", "on", "17"]
NO = [False, 0, 0.0, -0.0, "0", "-0", "00", "false", "False", "no", " off "]


@pytest.mark.parametrize(("value", "meant"), [*((value, True) for value in YES), *((value, False) for value in NO)])
def test_flags(value: object, meant: bool) -> None:
    assert flag(value, "local") is meant


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "maybe",
        "1.0",
        "1e3",
        "0x1",
        "1 1",
        "--1",
        "t",
        "1;",
        0.5,
        float("nan"),
        float("inf"),
        [1],
        {},
        b"1",
    ],
)
def test_nonsense_is_no_flag(value: object) -> None:
    with pytest.raises(RequestError, match="the parameter local takes a number"):
        flag(value, "local")


@pytest.mark.parametrize("name", [*FLAGS, "unique_primary_key"])
def test_a_refused_flag_is_named(name: str) -> None:
    with pytest.raises(RequestError, match=f"the parameter {name} takes a number"):
        BuildRequest.parse({**NAMES, name: "maybe"})
