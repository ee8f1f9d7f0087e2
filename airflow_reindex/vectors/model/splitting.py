"""Splitting of texts into parts of a size that a model accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from semantic_text_splitter import TextSplitter

from airflow_reindex.core.failures import DataError, RequestError

#: The library's time grows with the square of the length of a text without sentence ends, so it gets blocks of this
#: number of parts.
_BLOCK = 10
#: Preferred ends of a block.
_BREAKS = ("\n\n", "\n", ". ", "。", " ")


class Splitter:
    """
    Splits at the ends of paragraphs, sentences or words, whichever fit. Equal texts give equal parts.

    :param characters: most characters in a part.
    :param overlap: most characters that a part repeats of the one before.
    :raises RequestError: these are not whole numbers with ``0 <= overlap < characters``.
    """

    def __init__(self, characters: int = 2000, overlap: int = 0) -> None:
        for name, value in (("characters", characters), ("overlap", overlap)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise RequestError(f"'{name}' must be a whole number, not {value!r}.")
        if characters < 1:
            raise RequestError(f"'characters' must be at least 1, not {characters}.")
        if not 0 <= overlap < characters:
            raise RequestError(f"'overlap' must be from 0 to {characters - 1}, less than 'characters', not {overlap}.")
        self._characters = characters
        self._overlap = overlap
        self._splitter = TextSplitter(characters, overlap=overlap, trim=True)

    @property
    def characters(self) -> int:
        return self._characters

    @property
    def config(self) -> str:
        """Settings as a text; part of the embedding config hash, as other settings may give other parts."""
        return json.dumps({"characters": self._characters, "overlap": self._overlap}, sort_keys=True)

    def split(self, text: str) -> list[str]:
        """
        Split a text.

        :returns: at least one part, in order, none of them blank; each non-blank character is in some part.
        :raises DataError: the text is blank, or cannot be encoded as UTF-8.
        """
        try:
            parts = [part for block in self._blocks(text) for part in self._splitter.chunks(block) if part.strip()]
        except UnicodeEncodeError as error:
            raise DataError(f"the text cannot be written as UTF-8: {error}.") from error
        if not parts:
            raise DataError("the text is empty." if not text else "the text has only blanks.")
        return parts

    def _blocks(self, text: str) -> Iterator[str]:
        size = _BLOCK * self._characters
        start = 0
        while len(text) - start > size:
            half, end = start + size // 2, start + size
            found = (text.rfind(ending, half, end) + len(ending) for ending in _BREAKS if ending in text[half:end])
            end = next(found, end)
            yield text[start:end]
            # A block begins with the overlap, cut to whole words where possible.
            repeated = text[end - self._overlap : end] if self._overlap else ""
            start = end - len(repeated) + (repeated.find(" ") + 1)
        yield text[start:]
