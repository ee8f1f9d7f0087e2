"""The connection type `embedding_model`: what it accepts, what it says, and the models that it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from airflow.providers_manager import ProvidersManager

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks.embedding_model import EmbeddingModelHook
from airflow_reindex.vectors.embedding.backends.openai import OpenAIModel
from airflow_reindex.vectors.model.embedding_model import ModelSpec
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault

MakeHook = Callable[..., EmbeddingModelHook]
URL = "https://api.example.com/v1"


class Ours:
    """A backend of a deployment's own."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def embed(self, texts: list[str], kind: str = "document") -> Any:
        """As many vectors as the options say."""
        return np.ones(self.spec.options.get("shape", (len(texts), self.spec.dimensions)))

    def close(self) -> None:
        """Nothing to do."""


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> MakeHook:
    def connect(extra: dict[str, Any] | None = None, **changes: Any) -> EmbeddingModelHook:
        described = {
            "conn_type": "embedding_model",
            "host": URL,
            "extra": {"dimensions": 8, **(extra or {})},
            **changes,
        }
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_1", json.dumps(described))
        return EmbeddingModelHook("model_1")

    return connect


def test_defaults(connect: MakeHook) -> None:
    assert connect().spec == ModelSpec(
        model_id="model_1", backend="openai", name="model_1", dimensions=8, url=URL, collection_id="model_1"
    )


def test_all_fields(connect: MakeHook) -> None:
    given: dict[str, Any] = {
        "backend": "kserve",
        "model": "e5",
        "dimensions": 384,
        "metric": "dot",
        "batch_size": 64,
        "in_flight": 2,
        "timeout": 1.5,
        "document_prefix": "passage: ",
        "query_prefix": "query: ",
        "collection_id": "c-1",
    }
    expected = ModelSpec(
        model_id="model_1", name="e5", url=URL, secret="sk", price=0.1, options={"input": "t"},
        **{key: value for key, value in given.items() if key != "model"},
    )  # fmt: skip
    rest = {"price_per_million_tokens": 0.1, "options": {"input": "t"}}
    assert connect({**given, **rest}, password="sk\n").spec == expected
    as_texts = {key: str(value) for key, value in given.items()}
    as_texts |= {"price_per_million_tokens": "0.1", "options": '{"input": "t"}'}
    assert connect(as_texts, password="sk").spec == expected, "forms and URIs give texts"


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({"host": URL + "/"}, URL),
        ({"host": "api.example.com/v1", "schema": "https"}, URL),
        ({"host": "10.0.0.7", "port": 8000}, "http://10.0.0.7:8000"),
        ({"host": "10.0.0.7/v1", "port": 8000, "schema": "https"}, "https://10.0.0.7:8000/v1"),
        ({"host": "http://models:8000/v1", "port": 8000}, "http://models:8000/v1"),
        ({"host": "http://models/v1", "port": 8000, "schema": "ignored"}, "http://models:8000/v1"),
        ({"host": "[::1]", "port": 8000}, "http://[::1]:8000"),
        ({"host": None}, ""),
    ],
)
def test_urls(connect: MakeHook, changes: dict[str, Any], url: str) -> None:
    assert connect(**changes).spec.url == url


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conn_type": "http"}, "has the type 'http', not 'embedding_model'"),
        ({"host": "api.example.com", "password": "sk-1"}, "'schema' of the connection 'model_1' is missing"),
        ({"host": "https://me:sk-1@api.example.com"}, "'host' .* must have no user or password"),
        ({"host": URL + "?key=sk-1"}, "'host' .* has a query"),
        ({"host": "ftp://x"}, "'host' .* must be a host or an http or https URL"),
        ({"host": "http://x:y"}, "'host' .* is no URL"),
        ({"host": "http://x:1", "port": 2}, "'port' .* is 2, but 'host' says 1"),
    ],
)
def test_malformed_addresses(connect: MakeHook, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        connect(**changes).spec  # noqa: B018
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"dimensions": None}, "'dimensions' of the connection 'model_1' is missing"),
        ({"dimensions": 0}, "'dimensions' .* must be a whole number from 1, not 0"),
        ({"dimensions": "many"}, "'dimensions' .* must be a number from 0, not 'many'"),
        ({"dimensions": True}, "'dimensions' .* not True"),
        ({"dimensions": [1]}, "'dimensions' .* must be a number"),
        ({"batch_size": 1.5}, "'batch_size' .* must be a whole number"),
        ({"in_flight": -1}, "'in_flight' .* must be a number from 0"),
        ({"timeout": 0}, "'timeout' .* must be more than 0"),
        ({"price_per_million_tokens": "nan"}, "'price_per_million_tokens' .* must be a number"),
        ({"metric": "manhattan"}, "'metric' .* must be one of cosine, euclid, dot, not 'manhattan'"),
        ({"model": 5}, "'model' .* must be a text"),
        ({"options": "[1]"}, "'options' .* must be a JSON object"),
        ({"options": "{"}, "'options' .* must be a JSON object"),
    ],
)
def test_malformed_extras(connect: MakeHook, extra: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        connect(extra).spec  # noqa: B018
    good, message = connect(extra).test_connection()
    assert not good
    assert "model_1" in message


def test_only_allowed_connections_that_exist(connect: MakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="there is no Airflow connection 'nobody'"):
        EmbeddingModelHook("nobody").spec  # noqa: B018
    monkeypatch.setenv("AIRFLOW__REINDEX__ALLOWED_MODEL_IDS", "e5_*, bge_*")
    with pytest.raises(RequestError, match=r"this deployment allows e5_\*, bge_\* \(\[reindex\] allowed_model_ids"):
        connect().model()


def test_the_model_is_reached(connect: MakeHook) -> None:
    with EmbeddingServer({"small": 8}, key="sk-1") as server:
        hook = connect({"model": "small"}, host=server.url + "/v1", password="sk-1")
        model = hook.model()
        assert isinstance(model, OpenAIModel)
        assert np.array_equal(model.embed(["a"]), hash_vectors("small", ["a"], 8))
        model.close()
        assert np.array_equal(hook.get_conn().embed(["a"]), hash_vectors("small", ["a"], 8))


def test_testing_a_connection(connect: MakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow's form gives the connection another id for the test.
    monkeypatch.setenv("AIRFLOW__REINDEX__ALLOWED_MODEL_IDS", "e5_*")
    with EmbeddingServer({"small": 8}) as server:
        good, message = connect({"model": "small"}, host=server.url + "/v1").test_connection()
        assert good, message
        assert message.startswith("small: 8 dimensions in ")
        good, message = connect({"model": "small", "dimensions": 9}, host=server.url + "/v1").test_connection()
        assert (good, message) == (False, "embedding model 'model_1': the model returned 8 numbers instead of 9.")
        server.faults = [Fault(status=401)]
        good, message = connect({"model": "small"}, host=server.url + "/v1").test_connection()
        assert not good
        assert "answered 401" in message


def test_backends_of_the_deployment(connect: MakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="backend 'ours'; there are kserve, openai, wordllama"):
        connect({"backend": "ours"}).model()
    monkeypatch.setenv("AIRFLOW__REINDEX__EMBEDDING_BACKENDS", json.dumps({"ours": f"{__name__}.Ours"}))
    assert type(connect({"backend": "ours"}, host=None).model()).__name__ == "Ours"
    good, message = connect({"backend": "ours"}).test_connection()
    assert good, message
    good, message = connect({"backend": "ours", "options": {"shape": [3, 8]}}).test_connection()
    assert not good
    assert "'ours' of model 'model_1' returned an array of shape (3, 8) for 1 texts" in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("[", "must be a JSON object such as"),
        ('["x"]', "must be a JSON object such as"),
        ('{"x": 1}', "must be a JSON object such as"),
        ('{"openai": "os.path.join"}', "registers 'openai', which is built in"),
        ('{"ours": "no_such_package.Model"}', "cannot be imported: No module named 'no_such_package'"),
        ('{"ours": "json.NoSuchClass"}', "cannot be imported: .* no attribute 'NoSuchClass'"),
        ('{"ours": "nodots"}', "cannot be imported"),
        ('{"ours": "json.__name__"}', "is not a class"),
    ],
)
def test_malformed_settings(connect: MakeHook, monkeypatch: pytest.MonkeyPatch, setting: str, words: str) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__EMBEDDING_BACKENDS", setting)
    with pytest.raises(RequestError, match=words):
        connect({"backend": "ours"}).model()


def test_the_form_has_the_fields_that_the_hook_reads() -> None:
    manager = ProvidersManager()  # type: ignore[no-untyped-call]
    assert manager.hooks["embedding_model"].hook_name == "Embedding model"  # type: ignore[union-attr]
    prefix = "extra__embedding_model__"
    assert {name.removeprefix(prefix) for name in manager.connection_form_widgets if name.startswith(prefix)} == {
        "backend", "model", "dimensions", "metric", "batch_size", "in_flight", "timeout", "document_prefix",
        "query_prefix", "collection_id", "price_per_million_tokens", "options",
    }  # fmt: skip
