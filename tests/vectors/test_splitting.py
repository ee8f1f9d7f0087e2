"""Cutting texts: nothing is lost, nothing is blank, and no text takes for ever."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.model.splitting import Splitter
from sandbox.collection.texts import documents

LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(LETTERS, max_size=400) | st.text(st.sampled_from("ab .。\n\u0301\u00a0👩\u200d"), max_size=1500)


def covers(text: str, parts: list[str]) -> bool:
    """Whether the parts can be laid over the text so that only blanks are left out."""
    end = 0
    for part in parts:
        blanks = len(text[end:]) - len(text[end:].lstrip())
        start = text.rfind(part, 0, end + blanks + len(part))
        if start < 0:
            return False
        end = max(end, start + len(part))
    return not text[end:].strip()


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, characters=st.integers(1, 60), share=st.floats(0, 0.99))
def test_every_character_is_in_some_part(text: str, characters: int, share: float) -> None:
    overlap = int(share * characters)
    splitter = Splitter(characters, overlap)
    if not text.strip():
        with pytest.raises(DataError):
            splitter.split(text)
        return
    parts = splitter.split(text)
    assert all(part.strip() and len(part) <= characters for part in parts)
    assert covers(text, parts)
    assert overlap or "".join(text.split()) == "".join("".join(parts).split()), "without overlap, nothing comes twice"
    assert Splitter(characters, overlap).split(text) == parts


def test_real_texts_are_covered_with_overlap() -> None:
    for document in documents(40):
        text = document.text
        parts = Splitter(300, 60).split(text)
        assert all(len(part) <= 300 for part in parts)
        assert covers(text, parts), document.name


def test_overlap_repeats_across_blocks() -> None:
    text = " ".join(f"word{number}" for number in range(5000))
    parts = Splitter(100, 40).split(text)
    assert all(after.split(" ")[0] in before for before, after in pairwise(parts))
    assert {word for part in parts for word in part.split()} == set(text.split()), "no word is cut"


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0\u2003", "\x1c"])
def test_blank_texts(text: str) -> None:
    with pytest.raises(DataError, match="only blanks" if text else "empty"):
        Splitter().split(text)


def test_half_a_surrogate_pair_is_the_texts_fault() -> None:
    with pytest.raises(DataError, match="UTF-8"):
        Splitter().split("good \ud800 bad")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"characters": 0}, "'characters' must be at least 1, not 0"),
        ({"characters": "9"}, "'characters' must be a whole number, not '9'"),
        ({"characters": True}, "'characters' must be a whole number"),
        ({"overlap": 1.5}, "'overlap' must be a whole number"),
        ({"characters": 10, "overlap": 10}, "'overlap' must be from 0 to 9"),
        ({"overlap": -1}, "'overlap' must be from 0 to 1999"),
    ],
)
def test_settings_are_checked(values: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Splitter(**values)


def test_config_tells_settings() -> None:
    assert Splitter(10, 2).config == '{"characters": 10, "overlap": 2}'
    assert len({Splitter(10, 2).config, Splitter(10, 3).config, Splitter(11, 2).config}) == 3


@pytest.mark.parametrize("text", ["漢" * 200_000, "a" * 400_000, "e" + "\u0301" * 400_000, "ab " * 130_000])
def test_no_text_takes_for_ever(text: str) -> None:
    few, many = (cpu_seconds(part) for part in (text[: len(text) // 8], text))
    # The library alone needs 100 times as long for ten times the first text.
    assert many < 8 * 4 * max(few, 0.05)


def cpu_seconds(text: str) -> float:
    """What it takes to split a text, whatever else the machine does."""
    started = time.process_time()
    assert len(Splitter(2000, 200).split(text)) > 10
    return time.process_time() - started
