"""Identifiers: what is refused, and that quoting keeps the rest harmless."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.mysql.identifiers import check_identifier, quote
from tests.support.samples import examples


@pytest.mark.parametrize(
    "name",
    ["a", "x" * 64, "it's", 'say "so"', "back`tick", "a.b", "a;DROP TABLE b", "a%sb", "größe", "a b", " a", "名"],
)
def test_odd_names_are_taken_as_they_are(name: str) -> None:
    assert check_identifier(name, "database") == name


@pytest.mark.parametrize("name", ["", None, 5, True, ["a"], b"a"])
def test_what_is_no_name_is_empty(name: str) -> None:
    with pytest.raises(RequestError, match="the database name is empty"):
        check_identifier(name, "database")


@pytest.mark.parametrize("name", ["a ", "a\n", "a\x00b", "\x1f", "a\x7f", "a\U0001f600"])
def test_what_mysql_refuses_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="director key name"):
        check_identifier(name, "director key")


def test_the_limit_is_64_characters() -> None:
    with pytest.raises(RequestError, match="limit of 64 characters has been exceeded for database 'xxx"):
        check_identifier("x" * 65, "database")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a",), "`a`"),
        (("a", "b"), "`a`.`b`"),
        (("a.b",), "`a.b`"),
        (("a`b",), "`a``b`"),
        (("`",), "````"),
        (("50%",), "`50%%`"),
        (("%s`%s",), "`%%s``%%s`"),
    ],
)
def test_quote(parts: tuple[str, ...], expected: str) -> None:
    assert quote(*parts) == expected


@given(st.lists(st.text(st.sampled_from("ab`.%s\\'\"; "), min_size=1, max_size=12), min_size=1, max_size=3))
@examples(150)
def test_quoted_names_read_back(parts: list[str]) -> None:
    # As a driver does with its placeholders, then as the server reads back-quoted names.
    sent = quote(*parts) % ()
    assert re.fullmatch(r"`(?:[^`]|``)+`(?:\.`(?:[^`]|``)+`)*", sent)
    assert [part.replace("``", "`") for part in re.findall(r"`((?:[^`]|``)+)`(?:\.|$)", sent)] == parts
