"""The backend `openai`: servers that speak OpenAI's embeddings API (OpenAI, vLLM, TEI, Ollama, LiteLLM, ...)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import httpx
import numpy as np

from airflow_reindex.collections.backends.http import HttpModel, to_vectors
from airflow_reindex.collections.collection import Vectors
from airflow_reindex.collections.models import Kind, ModelSpec
from airflow_reindex.core.failures import RequestError

#: Refusals that are about these parts of a request have nothing to do with its texts.
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
        """
        Embed texts.

        :param texts: the texts.
        :param kind: makes no difference.
        :returns: one vector a text.
        """
        body: dict[str, Any] = {
            "model": self._spec.name,
            "input": list(texts),
            "encoding_format": self._encoding,
        }
        if self._send_dimensions:
            body["dimensions"] = self._spec.dimensions
        return self._call("POST", "/embeddings", body, lambda answer: _parse(answer, len(texts)))

    def _is_misconfigured(self, response: httpx.Response) -> bool:
        try:
            error = json.loads(response.content)["error"]
            return error.get("param") in _NOT_TEXTS or error.get("code") == "model_not_found"
        except (ValueError, LookupError, TypeError, AttributeError):
            return False


def _parse(answer: Any, count: int) -> Vectors:
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
        rows = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
        if len({len(row) for row in rows}) == 1:
            return np.stack(rows).astype(np.float32, copy=False)
        rows = [row.tolist() for row in rows]
    return to_vectors(rows)
