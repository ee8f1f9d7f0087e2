"""Both protocols over real HTTP: the right vectors in the right order, over few connections."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.embedding.backends.openai import OpenAIModel
from airflow_reindex.vectors.embedding.requests import check_vectors, embed_texts
from airflow_reindex.vectors.model.embedding_model import SuspectError
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.vectors.backends.conftest import KEY, MakeModel

BACKENDS = ["openai", "kserve"]
TEXTS = ["one", 'two\n"three"', "größer 漢字 😀", "\ud800 lone", "x" * 5000]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["small", "large"])
def test_vectors_are_in_the_order_of_the_texts(make: MakeModel, backend: str, name: str) -> None:
    found = make(backend, name=name).embed(TEXTS)
    assert found.dtype == np.float32
    assert np.array_equal(found, hash_vectors(name, TEXTS, 8 if name == "small" else 16))


def test_base64(make: MakeModel) -> None:
    found = make(options={"encoding_format": "base64"}).embed(TEXTS)
    assert np.array_equal(found, hash_vectors("small", TEXTS, 8))
    assert found.flags.writeable


@pytest.mark.parametrize("column", [True, False])
def test_kserve_follows_the_metadata(make: MakeModel, server: EmbeddingServer, column: bool) -> None:
    server.column = column
    for options in ({}, {"input": "text"}, {"input": "text", "output": "embedding", "version": 1}):
        assert make("kserve", options=options).embed(["a", "b"]).shape == (2, 8)


def test_kserve_names_the_tensors_that_there_are(make: MakeModel) -> None:
    with pytest.raises(RequestError, match=r"'small' has no output 'pooled' .* its outputs are embedding \(FP32\)"):
        make("kserve", options={"output": "pooled"}).embed(["a"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_few_connections(make: MakeModel, server: EmbeddingServer, backend: str) -> None:
    server.latency = 0.01
    model = make(backend, in_flight=3)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: model.embed([f"text {n}"]), range(40)))
    counts = server.counts
    assert counts.requests == 40
    assert counts.connections <= 3
    assert counts.at_once == 3, "no more than in_flight, and not one after the other"


def test_another_answer_for_each_request(make: MakeModel, server: EmbeddingServer) -> None:
    model = make(in_flight=8)
    texts = [[f"{n}-{m}" for m in range(5)] for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(model.embed, texts))
    for given, vectors in zip(texts, found, strict=True):
        assert np.array_equal(vectors, hash_vectors("small", given, 8))
    assert max(server.counts.embedded["small"].values()) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_prefixes_and_batches(make: MakeModel, server: EmbeddingServer, backend: str) -> None:
    model = make(backend, batch_size=3, document_prefix="passage: ", query_prefix="query: ")
    found = embed_texts(model, [str(n) for n in range(7)])
    assert np.array_equal(found, hash_vectors("small", [f"passage: {n}" for n in range(7)], 8))
    assert server.counts.requests == 3
    assert np.array_equal(embed_texts(model, ["x"], "query"), hash_vectors("small", ["query: x"], 8))
    assert embed_texts(model, []).shape == (0, 8)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "base64"}])
def test_a_bad_vector_is_its_texts_own(make: MakeModel, server: EmbeddingServer, options: dict[str, str]) -> None:
    server.faults = [Fault("bad", vector="nan"), Fault("none", vector="null"), Fault("zero", vector="zero")]
    vectors = make(options=options).embed(["good", "bad", "none", "zero", "fine"])
    messages = check_vectors(vectors, 8)
    assert [m is None for m in messages] == [True, False, False, False, True]
    assert messages[1] == messages[2] == "the model's vector has NaN or infinite numbers"
    assert "zero" in str(messages[3])
    assert check_vectors(vectors, 8, "dot")[3] is None


@pytest.mark.parametrize("options", [{}, {"encoding_format": "base64"}])
def test_one_short_vector_is_found_alone(make: MakeModel, server: EmbeddingServer, options: dict[str, str]) -> None:
    server.faults = [Fault("cut", vector="short")]
    model = make(options=options)
    with pytest.raises(DataError, match=r"'model-1' at http://127.*: the vectors have different lengths \(4, 8\)"):
        model.embed(["good", "cut"])
    if options:
        with pytest.raises(DataError, match=r"16 bytes in base64 .* 32: they seem to be 8 numbers .*, float16\. Set"):
            model.embed(["cut"])
    else:
        assert check_vectors(model.embed(["cut"]), 8) == ["the model returned 4 numbers instead of 8"]
    with pytest.raises(DataError, match="of another width" if options else "different lengths"):
        embed_texts(make(options=options, batch_size=1), ["good", "cut"])


@pytest.mark.parametrize(
    ("kind", "name"), [("<f2", "float16"), ("<f8", "float64"), ("i1", "8-bit integers")], ids=["half", "double", "byte"]
)
def test_base64_of_another_width(make: MakeModel, server: EmbeddingServer, kind: str, name: str) -> None:
    server.base64 = kind
    for count in (1, 3):
        with pytest.raises(DataError, match=f"numbers of another width, {name}.*'encoding_format' to 'float'"):
            make(options={"encoding_format": "base64"}).embed(["a"] * count)
    assert make().embed(["a"]).shape == (1, 8)


def test_base64_that_is_not_what_the_numbers_are(make: MakeModel, server: EmbeddingServer) -> None:
    model = make(options={"encoding_format": "base64"})
    assert isinstance(model, OpenAIModel)
    model.check_encoding("a")
    server.base64 = ">f4"
    with pytest.raises(RequestError, match=r"not those that it gives as numbers \(8 numbers of float32 in base64, 8"):
        model.check_encoding("a")
    server.base64, server.faults = "<f4", [Fault(status=500, times=1)]
    model.check_encoding("a")


def test_a_whole_vector_may_be_null(make: MakeModel, server: EmbeddingServer) -> None:
    body = {"data": [{"embedding": None}, {"embedding": [1, 1e39, 1, 1, 1, 1, 1, 1]}, {"embedding": [1] * 8}]}
    server.faults = [Fault(body=json.dumps(body))]
    assert [m is None for m in check_vectors(make().embed(["a", "b", "c"]), 8)] == [False, False, True]


@pytest.mark.parametrize(
    ("backend", "body", "words"),
    [
        ("openai", "[", "cannot be used"),
        ("openai", "[]", "no list 'data'"),
        ("openai", '{"error": {"message": "upstream away"}}', "no list 'data'.*upstream away"),
        ("openai", '{"data": []}', "0 vectors for 2 texts"),
        ("openai", '{"data": [1, 2]}', "no 'embedding'"),
        ("openai", '{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}', "'index'"),
        ("openai", '{"data": [{"embedding": 1}, {"embedding": 2}]}', "no list"),
        ("openai", '{"data": [{"embedding": ["a"]}, {"embedding": ["b"]}]}', "could not convert"),
        ("openai", '{"data": [{"embedding": [{}]}, {"embedding": [{}]}]}', "no list of numbers"),
        ("openai", '{"data": [{"embedding": [[1]]}, {"embedding": [[1]]}]}', "no list of numbers"),
        ("openai", '{"data": [{"embedding": "AAA"}, {"embedding": "AAA"}]}', "cannot be used"),
        ("openai", '{"data": [{"embedding": "AAAAAA=="}, {"embedding": [1]}]}', "no list"),
        ("kserve", "{}", "no output 'embedding'"),
        ("kserve", '{"outputs": [{"name": "embedding", "shape": [1, 8], "data": []}]}', r"shape \[1, 8\] for 2 texts"),
        ("kserve", '{"outputs": [{"name": "embedding", "shape": [2, 8], "data": [1]}]}', "cannot reshape"),
        ("kserve", '{"outputs": [{"name": "embedding", "shape": [2, 5, 8], "data": []}]}', "not one a token"),
        ("kserve", '{"outputs": [{"name": "embedding", "shape": [2, 1], "data": [{}, 1]}]}', "no numbers"),
        ("kserve", '{"outputs": [{"name": "embedding", "shape": [2, "x"], "data": [1]}]}', "cannot be used"),
    ],
)
def test_answers_that_make_no_sense(
    make: MakeModel, server: EmbeddingServer, backend: str, body: str, words: str
) -> None:
    server.faults = [Fault(body=body)]
    with pytest.raises(SuspectError, match=words):
        make(backend).embed(["a", "b"])
    assert server.counts.requests == 3
    server.faults = [Fault(body=body, times=2)]
    assert make(backend).embed(["a", "b"]).shape == (2, 8), "asking again helps"


def test_kserve_with_a_middle_dimension_of_one(make: MakeModel, server: EmbeddingServer) -> None:
    data = list(range(16))
    server.faults = [Fault(body=json.dumps({"outputs": [{"name": "embedding", "shape": [2, 1, 8], "data": data}]}))]
    assert make("kserve").embed(["a", "b"])[1].tolist() == data[8:]


def test_dimensions_are_sent_when_asked_for(make: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    real = httpx.Client.request

    def request(self: httpx.Client, *args: object, **kwargs: object) -> httpx.Response:
        sent.append(kwargs["content"])  # type: ignore[arg-type]
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.Client, "request", request)
    make().embed(["a"])
    make(options={"send_dimensions": True}).embed(["a"])
    assert [json.loads(body).get("dimensions") for body in sent] == [None, 8]


def test_requests_do_not_fill_the_log(make: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    caplog.set_level(logging.INFO)
    make().embed(["a"])
    assert not caplog.records


def test_the_server_counts_over_http(server: EmbeddingServer, make: MakeModel) -> None:
    make().embed(["a", "b"])
    assert httpx.get(server.url + "/stats", headers={"Authorization": f"Bearer {KEY}"}).json() == {
        "requests": 1, "connections": 2, "at_once": 1, "failed": 0, "embedded": {"small": 2}
    }  # fmt: skip
