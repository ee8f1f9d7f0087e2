"""A real embedding server, and models that reach it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_reindex.vectors.embedding.backends import http, open_model
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec
from sandbox.servers.embedding_server import EmbeddingServer

KEY = "sk-very-secret-0123456789"
MakeModel = Callable[..., EmbeddingModel]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.002)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer({"small": 8, "large": 16}, key=KEY) as server:
        yield server


@pytest.fixture
def make(server: EmbeddingServer) -> Iterator[MakeModel]:
    made: list[EmbeddingModel] = []

    def make(backend: str = "openai", **changes: Any) -> EmbeddingModel:
        described = {
            "model_id": "model-1",
            "backend": backend,
            "name": "small",
            "dimensions": 8,
            "url": server.url + ("/v1" if backend == "openai" else ""),
            "secret": KEY,
            "timeout": 5.0,
            **changes,
        }
        made.append(open_model(ModelSpec(**described), {}))
        return made[-1]

    yield make
    for model in made:
        model.close()
