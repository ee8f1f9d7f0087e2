"""Loaders by name: definitions of the deployment and of the DAG, and Airflow's own hooks behind them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.director.mysql.client import session
from airflow_reindex.hooks.loaders import make_loader
from airflow_reindex.vectors.model.loader import Content
from sandbox.servers.cluster import Sandbox
from sandbox.servers.objects import ObjectStore
from sandbox.servers.postgres import Postgres
from tests.support.loader_samples import item, told

QUERY = "SELECT id, body FROM docs WHERE id IN ({ids})"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(conn_id: str, described: dict[str, Any], **extra: Any) -> None:
        described = {**described, "extra": {**described.get("extra", {}), **extra}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(described))

    return make


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda **definitions: monkeypatch.setenv("AIRFLOW__REINDEX__LOADERS", json.dumps(definitions))


def test_payload_is_always_there() -> None:
    loader, splitter = make_loader("payload")
    assert told(loader.load([item(payload={"a": "x"})])) == ["x"]
    assert splitter.config == '{"characters": 2000, "overlap": 0}'


def test_the_dags_definitions_come_before_the_settings(loaders: Any) -> None:
    loaders(titles={"kind": "payload", "fields": ["title"]}, bodies={"kind": "payload", "fields": ["body"]})
    own = {"titles": {"kind": "payload", "fields": ["name"], "split": {"characters": 5, "overlap": 1}}}
    both = [item(payload={"title": "T", "name": "N", "body": "B"})]
    assert told(make_loader("titles")[0].load(both)) == ["T"]
    assert told(make_loader("titles", own)[0].load(both)) == ["N"]
    assert told(make_loader("bodies", own)[0].load(both)) == ["B"]
    assert make_loader("titles", own)[1].config == '{"characters": 5, "overlap": 1}'
    with pytest.raises(RequestError, match="no loader 'files'; this deployment has bodies, payload, titles"):
        make_loader("files", own)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("text", r"the loader 'x' must be a JSON object, not \"text\""),
        ({}, "the loader 'x' has the kind null; there are payload, s3, sql"),
        ({"kind": "gcs"}, "the loader 'x' has the kind \"gcs\""),
        ({"kind": ["s3"]}, "the loader 'x' has the kind"),
        ({"kind": "payload", "field": "a"}, "the loader 'x' has the unknown field 'field'; it knows fields"),
        ({"kind": "payload", "fields": "a"}, r"the loader 'x': 'fields' must be a list of texts, not \"a\""),
        ({"kind": "payload", "fields": ["a", 1]}, "'fields' must be a list of texts"),
        ({"kind": "s3", "max_bytes": "many"}, "'max_bytes' must be a whole number"),
        ({"kind": "s3", "concurrency": True}, "'concurrency' must be a whole number"),
        ({"kind": "s3", "bucket": 1}, "'bucket' must be a text, not 1"),
        ({"kind": "sql", "conn_id": "db"}, "the loader 'x' needs the field 'query'"),
        ({"kind": "sql", "query": QUERY}, "the loader 'x' needs the field 'conn_id'"),
        ({"kind": "sql", "conn_id": "db", "query": QUERY, "id_type": "uuid"}, "'id_type' must be 'text' or 'integer'"),
        ({"kind": "sql", "conn_id": "no_db", "query": QUERY}, "the loader 'x': there is no Airflow connection 'no_db'"),
        ({"kind": "s3", "aws_conn_id": "no_aws"}, "the loader 'x': there is no Airflow connection 'no_aws'"),
        ({"kind": "payload", "split": 5}, "the loader 'x': 'split' must be a JSON object"),
        ({"kind": "payload", "split": {"size": 5}}, "'split' of the loader 'x' has the unknown field 'size'"),
        ({"kind": "payload", "split": {"overlap": 3000}}, "the loader 'x': 'overlap' must be from 0 to 1999"),
    ],
)
def test_malformed_definitions(definition: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_loader("x", {"x": definition})


@pytest.mark.parametrize("value", ["[]", "nonsense", '{"x": 1}'])
def test_a_malformed_setting(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__LOADERS", value)
    with pytest.raises(RequestError, match=r"\[reindex\] loaders must be a JSON object"):
        make_loader("payload")


def test_null_is_the_default() -> None:
    made = make_loader("x", {"x": {"kind": "payload", "fields": None, "split": {"overlap": None}}})
    assert [part.config for part in made] == [part.config for part in make_loader("payload")]


@pytest.mark.server
def test_s3_by_airflows_hook(connection: Any) -> None:
    with ObjectStore() as objects:
        objects.put("hook-bucket", {"a.txt": "alpha"})
        connection("files_aws", objects.airflow_connection(), config_kwargs={"s3": {"addressing_style": "path"}})
        definition = {"kind": "s3", "aws_conn_id": "files_aws", "bucket": "hook-bucket", "concurrency": 40}
        loader, _ = make_loader("files", {"files": definition})
        assert told(loader.load([item(meta={"file": "a.txt"})])) == ["alpha"]
        config = loader._client.meta.config  # type: ignore[attr-defined]
        assert (config.retries["mode"], config.max_pool_connections) == ("standard", 40)
        assert config.s3["addressing_style"] == "path", "the connection's own settings are kept"


@pytest.mark.parametrize(
    ("conn_type", "definition", "words"),
    [
        # S3 never falls back to the machine's credentials.
        ("http", {"kind": "s3", "aws_conn_id": "odd"}, "'odd' has the type 'http', not 'aws'"),
        ("http", {"kind": "sql", "conn_id": "odd", "query": QUERY}, "'odd' is none of a database"),
        ("nonsense", {"kind": "sql", "conn_id": "odd", "query": QUERY}, "'odd' cannot be used: Unknown hook type"),
    ],
)
def test_connections_of_another_type(connection: Any, conn_type: str, definition: dict[str, str], words: str) -> None:
    connection("odd", {"conn_type": conn_type, "host": "example.org"})
    with pytest.raises(RequestError, match=words):
        make_loader("x", {"x": definition})


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[str]:
    postgres.create_database("loader_docs")
    with postgres.connect("loader_docs", user="reindex") as owner:
        owner.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, seen timestamptz DEFAULT '2024-05-01 UTC')")
        owner.execute("INSERT INTO docs SELECT n, 'text % ' || n FROM generate_series(1, 20000) n")
        owner.execute("CREATE TABLE named (id uuid, body bytea)")
        owner.execute("INSERT INTO named VALUES ('6f0c9b1e-0d2e-4f7c-9a51-0f4c6d1d2a3b', 'bytes')")
    yield "loader_docs"
    postgres.drop_database("loader_docs")


@pytest.fixture
def rows(postgres: Postgres, database: str, connection: Any) -> Any:
    def make(query: str = QUERY, extra: dict[str, Any] | None = None, **settings: Any) -> Any:
        connection("rows_db", postgres.airflow_connection(database), **(extra or {}))
        return make_loader("rows", {"rows": {"kind": "sql", "conn_id": "rows_db", "query": query, **settings}})[0]

    return make


def test_postgres_by_airflows_hook(rows: Any, capfd: pytest.CaptureFixture[str]) -> None:
    keys = [item(str(number)) for number in (7, 20000, 20001)]
    expected = ["text % 7", "text % 20000", "!the query gives no row for the id '20001'."]
    for id_type in ("text", "integer"):
        assert told(rows(id_type=id_type).load(keys)) == expected
    doubled = rows("SELECT id, body, seen FROM docs WHERE body LIKE 'text %%' AND id IN ({ids})")
    assert doubled.load(keys[:1]) == [Content("text % 7", "2024-05-01 00:00:00+00:00")]
    assert told(
        rows("SELECT id, body FROM named WHERE id IN ({ids})").load([item("6f0c9b1e-0d2e-4f7c-9a51-0f4c6d1d2a3b")])
    ) == ["bytes"]
    assert "20001" not in capfd.readouterr().err, "ids are not logged"


def test_cursors_that_give_dicts(rows: Any) -> None:
    assert told(rows(extra={"cursor": "dictcursor"}).load([item("7")])) == ["text % 7"]


def test_a_poisonous_id_in_postgres(rows: Any) -> None:
    keys = [item(str(number)) for number in range(1, 101)]
    keys[41] = item("forty-two")
    keys[77] = item("9" * 40)
    answers = told(rows().load(keys))
    assert [number for number, answer in enumerate(answers) if answer.startswith("!")] == [41, 77]
    assert answers[41].startswith("!the database refuses the id 'forty-two': invalid input syntax for type bigint")


def test_errors_of_postgres(rows: Any, postgres: Postgres, database: str, connection: Any) -> None:
    with postgres.connect(database) as admin:
        admin.execute("CREATE TABLE secret (id bigint, body text)")
        admin.execute("REVOKE ALL ON secret FROM PUBLIC, reindex")
    for query in (
        "SELECT id, body FROM nowhere WHERE id IN ({ids})",
        "SELECT id, nothing FROM docs WHERE id IN ({ids})",
        "SELECT {ids} FROM",
        "SELECT id, body FROM docs WHERE body LIKE '%x' AND id IN ({ids})",
        "SELECT id, body FROM secret WHERE id IN ({ids})",
    ):
        with pytest.raises(RequestError, match="the database of 'rows_db'"):
            rows(query).load([item("1"), item("2")])
    loader = rows()
    connection("rows_db", {**postgres.airflow_connection(database), "host": "127.0.0.1", "port": 1})
    away = make_loader("rows", {"rows": {"kind": "sql", "conn_id": "rows_db", "query": QUERY}})[0]
    with pytest.raises(TransientError, match="the database of 'rows_db'"):
        away.load([item("1")])
    assert told(loader.load([item("1")])) == ["text % 1"], "a loader keeps the connection that it was made with"


def test_many_rows_in_postgres(rows: Any) -> None:
    items = [item(str(number)) for number in range(1, 20001)]
    started = time.monotonic()
    answers = rows(id_type="integer").load(items)
    assert told(answers) == [f"text % {number}" for number in range(1, 20001)]
    assert time.monotonic() - started < 100


def test_mysql_by_airflows_hook(sandbox: Sandbox, connection: Any) -> None:
    described = json.loads(sandbox.connections()["AIRFLOW_CONN_QSERV_WORKER_1"])
    with session(sandbox.workers["worker-1"].connect) as admin:
        cursor = admin.cursor()
        cursor.execute("CREATE DATABASE loader_docs CHARACTER SET utf8mb4")
        cursor.execute("CREATE TABLE loader_docs.docs (id INT PRIMARY KEY, body TEXT)")
        cursor.execute("CREATE TABLE loader_docs.named (id VARCHAR(20), body TEXT) CHARACTER SET utf8mb3")
        cursor.execute("INSERT INTO loader_docs.docs VALUES (0, 'zero'), (1, 'one')")
        cursor.execute("INSERT INTO loader_docs.named VALUES ('a', 'small'), ('B', 'large')")
        cursor.execute("GRANT SELECT ON loader_docs.* TO 'reindex'@'127.0.0.1'")
    connection("rows_mysql", described)

    def load(table: str, *keys: str, column: str = "body") -> list[str]:
        query = f"SELECT id, {column} FROM loader_docs.{table} WHERE id IN ({{ids}})"
        definition = {"kind": "sql", "conn_id": "rows_mysql", "query": query}
        return told(make_loader("rows", {"rows": definition})[0].load([item(key) for key in keys]))

    try:
        assert load("docs", "1", "word") == ["one", "!the query gives no row for the id 'word'."]
        assert load("named", "a", "A", "b", "B")[:2] == ["small", "!the query gives no row for the id 'A'."]
        assert load("named", "a", "😀")[0] == "small"
        with pytest.raises(RequestError, match="nothing"):
            load("docs", "1", column="nothing")
        with pytest.raises(RequestError, match="nowhere"):
            load("nowhere", "1")
    finally:
        with session(sandbox.workers["worker-1"].connect) as admin:
            admin.cursor().execute("DROP DATABASE loader_docs")
            admin.cursor().execute("REVOKE SELECT ON loader_docs.* FROM 'reindex'@'127.0.0.1'")
