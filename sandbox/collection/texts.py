"""Texts that every machine has: the long descriptions of the installed distributions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import islice

_SHORTEST, _LONGEST = 80, 2000


@dataclass(frozen=True, slots=True)
class Document:
    """
    A distribution's description.

    :param name: the distribution.
    :param version: its version.
    :param summary: one line.
    :param text: the long description, as its author wrote it.
    """

    name: str
    version: str
    summary: str
    text: str


def documents(limit: int | None = None) -> list[Document]:
    """
    Read descriptions; the same distributions give the same list.

    :param limit: how many at most.
    :returns: them, ordered by name, each text once.
    """
    return list(_documents()[:limit])


def passages(count: int) -> Iterator[str]:
    """
    Cut paragraphs from the descriptions. When there are no more, pairs of paragraphs follow, with a number so that each
    passage is unique.

    :param count: how many, as many as you like.
    :returns: an iterator over them, always in the same order.
    """
    return islice(_passages(), count)


@cache
def _documents() -> tuple[Document, ...]:
    found: dict[str, Document] = {}
    for distribution in metadata.distributions():
        told = distribution.metadata.json
        name = re.sub(r"[-_.]+", "-", str(told.get("name", ""))).lower()
        text = str(told.get("description", "")).strip()
        if name and text not in ("", "UNKNOWN"):
            found.setdefault(name, Document(name, distribution.version, str(told.get("summary", "")), text))
    ordered = sorted(found.values(), key=lambda document: document.name)
    return tuple({document.text: document for document in reversed(ordered)}.values())[::-1]


@cache
def _paragraphs() -> tuple[str, ...]:
    found = (part.strip() for document in _documents() for part in re.split(r"\n\s*\n", document.text))
    return tuple(dict.fromkeys(part[:_LONGEST].strip() for part in found if len(part) >= _SHORTEST))


def _passages() -> Iterator[str]:
    real = _paragraphs()
    yield from real
    number, distance = len(real), 0
    while real:
        distance += 1
        for place, part in enumerate(real):
            number += 1
            yield f"{part}\n\n{real[(place + distance) % len(real)]}\n\n(Passage {number}.)"
