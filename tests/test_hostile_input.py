"""Hostile params and connections: a clear error or a correct result, never a traceback, never a secret shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.core.failures import DETAIL_LIMIT, ReindexError, RequestError, truncate_detail
from airflow_reindex.dag_factory.collection import collection_reindex_params
from airflow_reindex.dag_factory.director import director_index_params
from airflow_reindex.director.audit.request import AuditRequest
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import query, session
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.embedding_model import EmbeddingModelHook
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.hooks.staging import open_folder
from airflow_reindex.vectors.model.request import ReindexRequest
from sandbox.servers.cluster import Sandbox
from tests.support.samples import examples

SECRET = "s3cr3t-of-the-deployment"

NASTY = [
    *("", " ", "\0", "a\0b", "\n", "\x1b[2J", "\ud800", "\U0001f4a5", "\u202edlrow", "a" * 10_000),
    *("`", "``", "'", '"', "\\", "%s", "%(x)s", "{0}", "{{ params }}", "a`; DROP TABLE x; -- ", "' OR 1=1 -- "),
    *("../../etc/passwd", "file:///etc", "<b>", "1e400", "NaN", "inf", "-0", "0x10", "9" * 400, "1_000", "\u0663"),
    *("=cmd()", "null", "true", "[]", "["),
]
texts = st.sampled_from(NASTY) | st.text(max_size=70)
numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**400, float("nan"), float("-inf")])
anything = (
    texts
    | numbers
    | st.booleans()
    | st.none()
    | st.lists(texts, max_size=2)
    | st.dictionaries(texts, texts, max_size=2)
)


@contextmanager
def told() -> Iterator[None]:
    """What is raised is meant for users, can be written anywhere, and keeps secrets."""
    said = ""
    try:
        yield
    except ReindexError as error:
        said = truncate_detail(error)
    assert len(said) <= DETAIL_LIMIT
    assert SECRET not in said


@examples(100)
@given(st.dictionaries(st.sampled_from([*director_index_params()]), anything))
def test_params_of_a_build(params: dict[str, Any]) -> None:
    named = {"database": "sky", "director_table": "Object", **params}
    with told():
        request = BuildRequest.parse(named)
        assert isinstance(request.rebuild, bool)
        assert len(request.index_table) <= 64
        assert quote(request.database).count("`") % 2 == 0
    with told():
        AuditRequest.parse({**named, "sample": params.get("local"), "seed": params.get("rebuild")}, "run")


@examples(100)
@given(st.dictionaries(st.sampled_from([*collection_reindex_params()]), anything))
def test_params_of_a_reindex(params: dict[str, Any]) -> None:
    with told():
        request = ReindexRequest.parse({"source_embedding_model_id": "a", "dest_embedding_model_id": "b", **params})
        assert request.batch_size > 0
        assert request.max_subtasks > 0
        for text in (request.alias, request.loader, request.only_failed_of, request.query_set):
            assert b"\0" not in text.encode()


Set = Callable[..., None]


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set a connection with a secret."""

    def make(conn_id: str, **fields: Any) -> None:
        described = json.dumps({"login": "user", "password": SECRET, **fields})
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", described)

    return make


extras = st.dictionaries(
    st.sampled_from(
        [
            "workers",
            "catalog",
            "tls",
            "work_database",
            "worker_connections",
            "read_timeout",
            "binary_log",
            "staging_dir",
        ]
    ),
    anything,
)


@examples(20)
@given(extras, texts, st.none() | texts)
def test_connections_to_qserv(connection: Set, extra: dict[str, Any], host: str, schema: str | None) -> None:
    connection("qserv_worker", conn_type="mysql", host="localhost")
    given_extra = {"workers": {"one": "qserv_worker"}, **extra}
    connection("qserv_default", conn_type="qserv", host=host, schema=schema, extra=given_extra)
    with told():
        assert SECRET not in repr(QservHook("qserv_default").servers)


@examples(20)
@given(
    st.sampled_from(["backend", "model", "dimensions", "metric", "batch_size", "in_flight", "timeout", "options"]),
    anything,
    texts,
)
def test_connections_to_models(connection: Set, name: str, value: Any, host: str) -> None:
    connection("model", conn_type="embedding_model", host=host, extra={"dimensions": 4, name: value})
    with told():
        spec = EmbeddingModelHook("model").spec
        assert spec.dimensions > 0
        assert SECRET not in repr(spec)


@examples(20)
@given(st.sampled_from(["postgres", "lancedb", "mysql"]), texts, texts, st.dictionaries(texts, anything, max_size=2))
def test_connections_to_collections(connection: Set, kind: str, host: str, schema: str, extra: dict[str, Any]) -> None:
    connection(
        "collections_default", conn_type=kind, host=host, schema=schema, extra={**extra, "storage_options": host}
    )
    with told():
        store = CollectionHook("collections_default").store
        try:
            assert SECRET not in store.label
        finally:
            store.close()


@examples(20)
@given(texts, texts)
def test_staging_places(bucket: str, prefix: str) -> None:
    with told():
        assert SECRET not in open_folder(f"s3://{bucket}/{prefix}").url


@examples(20)
@given(texts)
def test_ids_of_connections(conn_id: str) -> None:
    for hook in (QservHook, CollectionHook, EmbeddingModelHook):
        with pytest.raises(RequestError):
            hook(conn_id).get_conn()


def test_names_are_never_run(sandbox: Sandbox) -> None:
    with session(lambda: sandbox.czar.connect("reindex")) as czar:
        for name in NASTY:
            with told():
                checked = BuildRequest.parse({"database": name, "director_table": "t"}).database
                assert query(czar, f"SELECT 1 AS {quote(checked)}") == [(1,)]
                assert query(czar, "SELECT %s", (name,)) == [(name,)]
