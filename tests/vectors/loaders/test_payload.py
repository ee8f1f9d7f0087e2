"""Contents in the row: which texts are taken, and what is said when there are none."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.loader import Content, Loader
from tests.support.loader_samples import item, told


def load(payload: Any, *fields: str, optional: tuple[str, ...] = ()) -> str:
    """What one payload gives."""
    loader: Loader = PayloadLoader(PayloadSettings(fields=fields, optional_fields=optional))
    return told(loader.load([item(payload=payload)]))[0]


def test_all_texts_in_order_of_their_keys() -> None:
    assert load({"b": "two", "a": "one", "n": 3, "o": {"x": "no"}, "e": " "}) == "one\ntwo"


def test_named_fields_in_their_own_order() -> None:
    payload = {"title": "T", "meta": {"tags": ["x", "y"], "deep": {"note": "N"}}, "other": "no"}
    assert load(payload, "meta.deep.note", "title", "meta.tags") == "N\nT\nx\ny"


def test_optional_fields() -> None:
    assert load({"title": "T", "lead": None}, "title", optional=("lead", "body")) == "T"
    assert load({"body": "B"}, optional=("lead", "body")) == "B"


@pytest.mark.parametrize(
    ("payload", "fields", "words"),
    [
        (None, (), "!the payload is NULL."),
        ([1], (), "!the payload is no JSON object."),
        ("text", (), "!the payload is no JSON object."),
        ({}, (), "!the payload has no text."),
        ({"a": 1, "b": None, "c": "\n"}, (), "!the payload has no text."),
        ({"a": "x"}, ("a", "b"), "!the payload has no field 'b'."),
        ({"a": {"b": None}}, ("a.b",), "!the payload has no field 'a.b'."),
        ({"a": "x"}, ("a.b",), "!the payload has no field 'a.b'."),
        ({"a": {"b": 1}}, ("a",), "!the field 'a' of the payload holds no text, but dict."),
        ({"a": [1]}, ("a",), "!the field 'a' of the payload holds no text, but list."),
        ({"a": " "}, ("a",), "!the payload has no text in a."),
    ],
)
def test_what_is_wrong_is_said(payload: Any, fields: tuple[str, ...], words: str) -> None:
    assert load(payload, *fields) == words


def test_an_unreadable_payload_fails_alone() -> None:
    deep = Item("deep", '{"a":' * 100_000 + "1" + "}" * 100_000, None, b"")
    long = Item("long", '{"a":' + "9" * 10_000 + "}", None, b"")
    answers = told(PayloadLoader(PayloadSettings()).load([deep, item(payload={"a": "good"}), long]))
    assert answers[0].startswith("!the payload cannot be read: ")
    assert answers[1] == "good"
    assert answers[2].startswith("!the payload cannot be read: ")


def test_it_has_no_versions_of_its_own() -> None:
    loader = PayloadLoader(PayloadSettings(fields=("a",)))
    assert not loader.outside
    assert loader.versions([item(), item()]) == ["", ""]
    assert loader.load([item(payload={"a": "x"})]) == [Content("x", "")]
    assert loader.config == '{"fields":["a"],"kind":"payload","optional_fields":[]}'
