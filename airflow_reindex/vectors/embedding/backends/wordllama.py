"""Backend `wordllama`: small static word embeddings, computed in the task without a server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import wordllama

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.model.collection import Vectors
from airflow_reindex.vectors.model.embedding_model import Kind, ModelSpec

#: The matrix that comes with the package, its width, and the dimensions that it may be cut to.
NAME, WIDTH, DIMENSIONS = "l2_supercat", 256, (64, 128, 256)

_loading = Lock()


class WordLlamaModel:
    """
    The model ``l2_supercat`` of the package ``wordllama``, with 64, 128 or 256 dimensions.

    :raises RequestError: there is no such model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        if spec.name != NAME or spec.dimensions not in DIMENSIONS:
            raise RequestError(
                f"embedding model '{spec.model_id}': the backend 'wordllama' has the model '{NAME}' with "
                f"{', '.join(map(str, DIMENSIONS))} dimensions, not '{spec.name}' with {spec.dimensions}."
            )
        if spec.options:
            raise RequestError(
                f"embedding model '{spec.model_id}': the backend 'wordllama' knows no option '{min(spec.options)}'."
            )

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:  # noqa: ARG002
        """
        Average the token vectors of each text; a text without tokens gets a zero vector.

        :raises DataError: a text is not valid Unicode.
        """
        with _loading:
            model = _load(self._spec.dimensions)
        try:
            # Tokenized without padding: the package's own method pads all texts to the longest, which costs time and
            # memory.
            tokens = model.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise DataError(
                f"embedding model '{self._spec.model_id}': a text is no valid Unicode ({error})."
            ) from error
        vectors = np.zeros((len(tokens), self._spec.dimensions), dtype=np.float32)
        for row, encoding in enumerate(tokens):
            if encoding.ids:
                vectors[row] = model.embedding.take(encoding.ids, axis=0, mode="clip").mean(axis=0)
        return vectors

    def close(self) -> None:
        """Nothing to close: the matrix stays cached for the process's next model."""


@cache
def _load(dimensions: int) -> Any:
    # Unless told where, the package looks for the tokenizer in a folder of another name and then on the network.
    model = wordllama.WordLlama.load(
        NAME,
        cache_dir=Path(wordllama.__file__).parent,
        dim=WIDTH,
        trunc_dim=None if dimensions == WIDTH else dimensions,
        disable_download=True,
    )
    model.tokenizer.no_padding()
    return model
