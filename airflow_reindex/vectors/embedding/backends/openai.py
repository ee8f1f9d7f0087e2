"""Backend `openai`: servers that speak OpenAI's embeddings API (OpenAI, vLLM, TEI, Ollama, LiteLLM, ...)."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import httpx
import numpy as np

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.embedding.backends.http import HttpModel, to_vectors
from airflow_reindex.vectors.model.collection import Vectors
from airflow_reindex.vectors.model.embedding_model import Kind, ModelSpec

_log = logging.getLogger(__name__)

#: Number formats other than float32 that a server may send, by their bits.
_WIDTHS = {1: "single bits", 8: "8-bit integers", 16: "float16", 64: "float64"}
_REMEDY = "Set the option 'encoding_format' to 'float' in its connection."

#: Refusals that name one of these fields are not about the texts.
_NOT_TEXTS = {"model", "dimensions", "encoding_format"}


class OpenAIModel(HttpModel):
    """
    ``POST {url}/embeddings``.

    Options: ``encoding_format`` (``float``, or ``base64``, which is faster where the server offers it), and
    ``send_dimensions`` (``true`` asks the server for vectors of the connection's ``dimensions``).
    """

    options: ClassVar[frozenset[str]] = frozenset({"encoding_format", "send_dimensions"})

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._encoding = spec.options.get("encoding_format", "float")
        self._send_dimensions = spec.options.get("send_dimensions", False)
        if self._encoding not in ("float", "base64"):
            raise RequestError(f"{self._label}: option 'encoding_format' must be 'float' or 'base64'.")
        if not isinstance(self._send_dimensions, bool):
            raise RequestError(f"{self._label}: option 'send_dimensions' must be true or false.")

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:  # noqa: ARG002
        return self._embed(texts, self._encoding)

    def check_encoding(self, text: str) -> None:
        """
        Compare a vector in base64 with the same one as numbers, when the connection uses base64.

        :raises RequestError: they differ: the server's base64 is not float32.
        """
        if self._encoding != "base64":
            return
        (packed,) = self._embed([text], "base64")
        try:
            (plain,) = self._embed([text], "float")
        except DataError as error:
            _log.warning("%s gives no vectors as numbers to compare those in base64 with: %s", self._label, error)
            return
        # Servers that compute in low precision do not return the same numbers twice.
        if len(packed) != len(plain) or not np.allclose(packed, plain, rtol=0, atol=0.05 * np.abs(plain).max()):
            raise RequestError(
                f"{self._label}: its vectors in base64 are not those that it gives as numbers ({len(packed)} numbers "
                f"of float32 in base64, {len(plain)} as such): its base64 has numbers of another width. {_REMEDY}"
            )

    def _embed(self, texts: Sequence[str], encoding: str) -> Vectors:
        body: dict[str, Any] = {"model": self._spec.name, "input": list(texts), "encoding_format": encoding}
        if self._send_dimensions:
            body["dimensions"] = self._spec.dimensions
        return self._call("POST", "/embeddings", body, lambda answer: _parse(answer, len(texts), self._spec.dimensions))

    def _is_misconfigured(self, response: httpx.Response) -> bool:
        try:
            error = json.loads(response.content)["error"]
            return error.get("param") in _NOT_TEXTS or error.get("code") == "model_not_found"
        except (ValueError, LookupError, TypeError, AttributeError):
            return False


def _parse(answer: Any, count: int, dimensions: int) -> Vectors:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise ValueError("there is no list 'data'")
    entries = answer["data"]
    if len(entries) != count:
        raise ValueError(f"{len(entries)} vectors for {count} texts")
    if not all(isinstance(entry, dict) and "embedding" in entry for entry in entries):
        raise ValueError("an entry of 'data' has no 'embedding'")
    rows: list[Any] = [None] * count
    places = [entry.get("index", place) for place, entry in enumerate(entries)]
    if not all(isinstance(place, int) for place in places) or set(places) != set(range(count)):
        raise ValueError("'index' does not count the texts")
    for place, entry in zip(places, entries, strict=True):
        rows[place] = entry["embedding"]
    if all(isinstance(row, str) for row in rows):
        contents = [base64.b64decode(row) for row in rows]
        if len({len(content) for content in contents}) == 1:
            _check_width(len(contents[0]), dimensions)
            return np.frombuffer(b"".join(contents), dtype="<f4").reshape(count, -1).astype(np.float32)
        rows = [np.frombuffer(content, dtype="<f4").tolist() for content in contents]
    return to_vectors(rows)


def _check_width(size: int, dimensions: int) -> None:
    """Refuse vectors whose length shows that they are not float32, the only format that the protocol has."""
    for width, name in _WIDTHS.items():
        if size * 8 == width * dimensions:
            raise DataError(
                f"a vector has {size} bytes in base64 where {dimensions} numbers of float32 have {4 * dimensions}: "
                f"they seem to be {dimensions} numbers of another width, {name}. {_REMEDY}"
            )
