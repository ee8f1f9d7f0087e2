"""What the sandbox's embedding server answers: vectors from hashes of texts, as the JSON of two protocols."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from hashlib import shake_128
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airflow_reindex.vectors.model.collection import Vectors

#: How a vector may be spoiled.
Spoil = Literal["", "nan", "null", "short", "zero"]

_LEVELS = [round((2 * byte - 255) / 256, 3) for byte in range(256)]
_AS_FLOAT = np.array(_LEVELS, dtype=np.float32)
# Of one width, so that numpy writes a request's JSON at once: JSON allows blanks before a number.
_AS_TEXT = np.array([f"{level: .3f},".encode() for level in _LEVELS], dtype="S7")


def _bytes_of(model: str, texts: Sequence[str], dimensions: int) -> NDArray[np.uint8]:
    hashes = (shake_128(f"{model}\0{text}".encode(errors="surrogatepass")).digest(dimensions) for text in texts)
    return np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(len(texts), dimensions)


def hash_vectors(model: str, texts: Sequence[str], dimensions: int) -> Vectors:
    """
    The vectors that the server gives.

    :param model: the model's name: other models have other vectors.
    :param texts: the texts.
    :param dimensions: of the vectors.
    :returns: one vector a text.
    """
    return _AS_FLOAT[_bytes_of(model, texts, dimensions)]


def hash_rows(model: str, texts: Sequence[str], dimensions: int) -> list[bytes]:
    """
    The vectors of :func:`hash_vectors` as JSON without brackets.

    :param model: the model's name.
    :param texts: the texts.
    :param dimensions: of the vectors.
    :returns: one row a text.
    """
    width = dimensions * _AS_TEXT.itemsize
    whole = _AS_TEXT[_bytes_of(model, texts, dimensions)].tobytes()
    return [whole[start : start + width - 1] for start in range(0, len(whole), width)]


def write_row(vector: Vectors, how: Spoil, in_base64: str) -> bytes:
    """
    Write any vector.

    :param vector: its numbers.
    :param how: what is to be wrong with it.
    :param in_base64: the numbers' type, such as ``<f4``, for a JSON text of base64; empty: numbers without brackets.
    :returns: JSON.
    """
    if how == "short":
        vector = vector[: len(vector) // 2]
    elif how == "zero":
        vector = np.zeros_like(vector)
    elif how in ("nan", "null"):
        vector = vector.copy()
        vector[0] = np.nan
    if in_base64:
        return b'"' + base64.b64encode(vector.astype(in_base64).tobytes()) + b'"'
    row = json.dumps(vector.tolist())[1:-1]
    return (row.replace("NaN", "null") if how == "null" else row).encode()


def openai_answer(model: str, rows: list[bytes], body: dict[str, Any]) -> bytes:
    """
    An answer of OpenAI's embeddings API.

    :param model: the model's name.
    :param rows: the vectors.
    :param body: the request.
    :returns: JSON.
    """

    embedding = b"%b" if body.get("encoding_format") == "base64" else b"[%b]"
    # In reverse, because clients must go by the index.
    entries = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, embedding % rows[index])
        for index in reversed(range(len(rows)))
    ]
    return b'{"object":"list","model":%b,"data":[%b]}' % (json.dumps(model).encode(), b",".join(entries))


def kserve_answer(model: str, rows: list[bytes], body: dict[str, Any]) -> bytes:  # noqa: ARG001
    """
    An answer of the Open Inference Protocol.

    :param model: the model's name.
    :param rows: the vectors.
    :param body: the request.
    :returns: JSON.
    """
    width = rows[0].count(b",") + 1
    return b'{"model_name":%b,"outputs":[{"name":"embedding","datatype":"FP32","shape":[%d,%d],"data":[%b]}]}' % (
        json.dumps(model).encode(),
        len(rows),
        width,
        b",".join(rows),
    )
