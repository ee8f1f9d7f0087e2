"""Backend `kserve`: servers that speak the Open Inference Protocol, version 2 (Triton, KServe, MLServer, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.embedding.backends.http import HttpModel
from airflow_reindex.vectors.model.collection import Vectors
from airflow_reindex.vectors.model.embedding_model import Kind, ModelSpec

_FLOATS = {"FP16", "BF16", "FP32", "FP64"}


@dataclass(frozen=True)
class _Tensors:
    """Names of the tensors, and whether texts are a column ``[n, 1]`` rather than a list ``[n]``."""

    texts: str
    vectors: str
    column: bool


class KServeModel(HttpModel):
    """
    ``POST {url}/v2/models/{name}/infer`` with the texts as a tensor of BYTES.

    Options: ``input`` and ``output`` (tensor names; by default the only ones of the model's metadata that fit) and
    ``version`` (of the model).
    """

    options: ClassVar[frozenset[str]] = frozenset({"input", "output", "version"})

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        version = spec.options.get("version")
        self._path = f"/v2/models/{quote(spec.name, safe='')}"
        if version is not None:
            self._path += f"/versions/{quote(str(version), safe='')}"
        self._tensors: _Tensors | None = None
        self._lock = Lock()

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:  # noqa: ARG002
        with self._lock:
            tensors = self._tensors or self._look_up()
            self._tensors = tensors
        tensor = {
            "name": tensors.texts,
            "shape": [len(texts), 1] if tensors.column else [len(texts)],
            "datatype": "BYTES",
            "data": list(texts),
        }
        body = {"inputs": [tensor], "outputs": [{"name": tensors.vectors}]}
        return self._call(
            "POST", f"{self._path}/infer", body, lambda answer: _parse(answer, tensors.vectors, len(texts))
        )

    def _look_up(self) -> _Tensors:
        metadata = self._call("GET", self._path, None, _metadata)
        texts = self._choose("input", metadata["inputs"], {"BYTES"})
        vectors = self._choose("output", metadata["outputs"], _FLOATS)
        return _Tensors(texts["name"], vectors["name"], len(texts.get("shape") or [-1]) == 2)

    def _choose(self, option: str, tensors: list[dict[str, Any]], types: set[str]) -> dict[str, Any]:
        name = self._spec.options.get(option)
        fit = [t for t in tensors if t.get("datatype") in types and name in (None, t.get("name"))]
        if len(fit) != 1:
            offered = ", ".join(f"{t.get('name')} ({t.get('datatype')})" for t in tensors) or "none"
            asked = f"no {option} '{name}'" if name else f"not exactly one {option}"
            raise RequestError(
                f"{self._label}: '{self._spec.name}' has {asked} of type {' or '.join(sorted(types))}: its {option}s "
                f"are {offered}. Name one with the option '{option}'."
            )
        return fit[0]


def _metadata(answer: Any) -> dict[str, Any]:
    for key in ("inputs", "outputs"):
        tensors = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(tensors, list) or not all(isinstance(t, dict) and "name" in t for t in tensors):
            raise ValueError(f"the model's metadata has no list '{key}'")
    return dict(answer)


def _parse(answer: Any, name: str, count: int) -> Vectors:
    outputs = answer.get("outputs") if isinstance(answer, dict) else None
    found = [t for t in outputs if isinstance(t, dict) and t.get("name") == name] if isinstance(outputs, list) else []
    if len(found) != 1:
        raise ValueError(f"there is no output '{name}'")
    shape = found[0].get("shape")
    if not isinstance(shape, list) or not shape or shape[0] != count:
        raise ValueError(f"shape {shape} for {count} texts")
    if len(shape) > 2 and shape[1:-1] != [1] * (len(shape) - 2):
        raise ValueError(f"shape {shape}: one vector a text is needed, not one a token")
    try:
        with np.errstate(over="ignore"):
            return np.array(found[0].get("data"), dtype=np.float32).reshape(count, shape[-1])
    except TypeError as error:
        raise ValueError(f"'data' are no numbers: {error}") from error
