"""The model that needs no server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wordllama

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.embedding.requests import check_vectors
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec

TEXTS = ["The telescope sees faint galaxies.", "A galaxy far away, seen at night", "Bread needs flour.", "漢字 😀", " "]


def make(**changes: Any) -> EmbeddingModel:
    described = {"model_id": "m", "backend": "wordllama", "name": "l2_supercat", "dimensions": 256, **changes}
    return open_model(ModelSpec(**described), {})


@pytest.mark.parametrize("dimensions", [64, 128, 256])
def test_the_same_as_the_packages_own_method(dimensions: int) -> None:
    theirs = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, dim=256, trunc_dim=dimensions, disable_download=True
    ).embed(TEXTS)
    ours = make(dimensions=dimensions).embed(TEXTS)
    assert ours.shape == (5, dimensions)
    assert np.allclose(ours, theirs, atol=1e-5)
    assert check_vectors(ours, dimensions) == [None] * 5


def test_near_texts_have_near_vectors() -> None:
    vectors = make().embed(TEXTS)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1


def test_a_texts_vector_does_not_depend_on_its_batch() -> None:
    model = make()
    texts = ["word " * n + TEXTS[n % 4] for n in range(1, 120)]
    alone = np.concatenate([model.embed([text]) for text in texts])
    assert np.array_equal(model.embed(texts), alone)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(model.embed, [texts] * 24))
    assert all(np.array_equal(vectors, alone) for vectors in found)


def test_texts_without_a_vector() -> None:
    vectors = make().embed(["", "fine"])
    assert check_vectors(vectors, 256) == ["the model's vector is zero, which has no direction to compare", None]
    with pytest.raises(DataError, match="a text is no valid Unicode"):
        make().embed(["fine", "\ud800"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dimensions": 100}, "64, 128, 256 dimensions, not 'l2_supercat' with 100"),
        ({"name": "l3"}, "not 'l3' with 256"),
        ({"options": {"x": 1}}, "knows no option 'x'"),
    ],
)
def test_other_models(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make(**changes)
