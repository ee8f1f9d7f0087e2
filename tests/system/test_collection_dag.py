"""The DAG `reindex_collection`, run as `airflow dags test` runs it: real store, real model, real S3 calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_reindex import metadata
from airflow_reindex.vectors.account import read_failed
from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.stores.lancedb import LanceStore
from sandbox.collection.collection_data import SOURCE_MODEL, index_documents, model_connections, word_model
from sandbox.collection.texts import documents
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from sandbox.servers.objects import ObjectStore
from sandbox.servers.postgres import Postgres
from tests.support.reindex import NEW, OLD, make_source, rows_of, texts
from tests.system.conftest import Run

BOTH = {"source_embedding_model_id": OLD, "dest_embedding_model_id": NEW}
Runner = Callable[..., Run]


def test_switch_and_roll_back(vectors: psycopg.Connection[Any], run_dag: Runner) -> None:
    make_source(vectors, texts(50))
    run = run_dag("reindex_collection", **BOTH, batch_size=20, deploy_as_blue=True, alias="products")
    assert run.state == "success"
    assert run.tasks == {
        "plan": "success", "reindex[0]": "success", "reindex[1]": "success", "reindex[2]": "success",
        "verify": "success", "switch": "success", "aggregate": "success",
    }  # fmt: skip
    report = run.report
    assert (report["status"], report["total"], report["count"], report["failed"]) == ("done", 50, 50, 0)
    assert report["progress"] == 1.0
    assert rows_of(vectors, "products") == rows_of(vectors, OLD)
    assert vectors.execute("SELECT count(*) FROM airflow_reindex.claims").fetchone() == (0,)
    assert run.folder.names() == ["plan.json", "report.json", "tasks"]

    back = run_dag("rollback_collection", alias="products")
    assert back.state == "success"
    assert vectors.execute("SELECT collection_id FROM airflow_reindex.aliases").fetchall() == [(OLD,)]


def test_no_secret_leaves_the_connection(
    vectors: psycopg.Connection[Any], run_dag: Runner, postgres: Postgres, capfd: pytest.CaptureFixture[str]
) -> None:
    make_source(vectors, texts(5))
    run = run_dag("reindex_collection", **BOTH)
    assert run.state == "success"
    printed = "".join(capfd.readouterr())
    files = "".join(
        json.dumps(run.folder.read_json(name)) for name in ("plan.json", "report.json", "tasks/plan--1.json")
    )
    for secret in ("secret-key", *postgres.passwords.values()):
        assert secret not in printed + files


def test_failed_items(vectors: psycopg.Connection[Any], run_dag: Runner, server: EmbeddingServer) -> None:
    make_source(vectors, texts(32) | {"o000007": {"text": "poison"}, "o000030": {"other": 1}})
    server.faults.append(Fault("poison", status=400))
    run = run_dag("reindex_collection", **BOTH, batch_size=16, deploy_as_blue=True, alias="products")
    assert run.state == "failed"
    report = run.report
    assert (report["status"], report["total"], report["failed"]) == ("failed", 32, 2)
    assert {item["object_id"]: item["failure_stage"] for item in report["failed_items"]} == {
        "o000007": "on_inference",
        "o000030": "on_downloading",
    }
    assert report["error_ext"].keys() == {OLD}
    assert vectors.execute("SELECT to_regclass('dbo_products')").fetchone() == (None,)
    listed = {item.object_id for item in read_failed(run.folder)}
    assert listed == {"o000007", "o000030"}

    server.faults.clear()
    vectors.execute("""UPDATE dbo_old_model SET payload = '{"text": "mended"}' WHERE object_id = 'o000030'""")
    again = run_dag(
        "reindex_collection", **BOTH, only_failed_of=run.dag_run.run_id, deploy_as_blue=True, alias="products"
    )
    assert again.state == "success"
    assert "reindex[1]" not in again.tasks
    assert rows_of(vectors, "products") == rows_of(vectors, OLD)


def test_a_done_run_with_failed_items_is_resumed_from_its_plan_on(
    vectors: psycopg.Connection[Any], run_dag: Runner
) -> None:
    """It has given its claim back, so that its windows alone could not be done again."""
    make_source(vectors, texts(30) | {"o000007": {"other": 1}})
    run = run_dag("reindex_collection", **BOTH, batch_size=20)
    assert (run.state, run.report["failed"]) == ("success", 1)
    facts = metadata.find_run("reindex_collection", run.dag_run.run_id)
    assert facts is not None
    assert metadata.resumable(facts) == {"plan": 1, "reindex": 2, "verify": 1, "switch": 1, "aggregate": 1}


def test_empty_collection(vectors: psycopg.Connection[Any], run_dag: Runner) -> None:
    make_source(vectors, {})
    run = run_dag("reindex_collection", **BOTH, deploy_as_blue=True, alias="products")
    assert run.state == "success"
    assert (run.report["status"], run.report["total"]) == ("done", 0)


def test_dry_run(vectors: psycopg.Connection[Any], run_dag: Runner) -> None:
    make_source(vectors, texts(30))
    run = run_dag("reindex_collection", **BOTH, dry_run=True)
    assert run.state == "success"
    assert run.report["status"] == "pending"
    figures = run.report["notes"]
    assert (figures["items"], figures["to_embed"], figures["unchanged"]) == (30, 30, 0)
    assert vectors.execute("SELECT to_regclass('dbo_new_model'), to_regnamespace('airflow_reindex')").fetchone() == (
        None,
        None,
    )


def test_refusal(vectors: psycopg.Connection[Any], run_dag: Runner) -> None:
    make_source(vectors, texts(3))
    run = run_dag("reindex_collection", source_embedding_model_id=OLD, dest_embedding_model_id=OLD)
    assert run.state == "failed"
    assert run.report["status"] == "refused"
    assert "same embedding model" in run.report["detail"]
    assert run.tasks["plan"] == "failed"


def test_contents_in_s3(
    vectors: psycopg.Connection[Any], run_dag: Runner, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(vectors, texts(20))
    with ObjectStore() as store:
        store.put("documents", {f"o{number:06}": f"content {number}" for number in range(20)})
        monkeypatch.setenv("AIRFLOW_CONN_AWS_FILES", json.dumps(store.airflow_connection()))
        run = run_dag("nightly_reindex")
        assert run.state == "success"
        assert run.tasks["approve"] == "skipped"
        assert "content 7" in server.counts.embedded[NEW]

        store.put("documents", {"o000007": "another content"})
        before = dict(server.counts.embedded[NEW])
        second = run_dag("nightly_reindex")
    assert second.state == "success"
    new = {text for text, count in server.counts.embedded[NEW].items() if count != before.get(text)}
    contents = {text for text in new if text.startswith(("content ", "another content"))}
    assert contents == {"another content"}, "besides the changed object only the plan's probes were embedded"


def test_lancedb(run_dag: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in model_connections().items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))
    lance = {"conn_type": "lancedb", "host": str(tmp_path)}
    monkeypatch.setenv("AIRFLOW_CONN_COLLECTIONS_LANCE", json.dumps(lance))
    store = LanceStore(str(tmp_path))
    index_documents(store, open_model(word_model(SOURCE_MODEL), {}), documents(20), "packages")
    where = {"collection_conn_id": "collections_lance", "alias": "packages"}
    models = {"source_embedding_model_id": SOURCE_MODEL, "dest_embedding_model_id": "words_256"}
    run = run_dag("reindex_collection", **models, **where, deploy_as_blue=True)
    assert run.state == "success"
    assert (run.report["total"], run.report["failed"]) == (20, 0)
    pointer = store.pointer("packages")
    assert pointer is not None
    assert pointer.collection_id == "words_256"
    new, old = store.open("words_256"), store.open(SOURCE_MODEL)
    assert new.versions(None, None) == old.versions(None, None)
    assert run_dag("rollback_collection", **where).state == "success"
    pointer = store.pointer("packages")
    assert pointer is not None
    assert pointer.collection_id == SOURCE_MODEL


def test_dags_of_the_project(monkeypatch: pytest.MonkeyPatch, airflow: None) -> None:
    bag = DagBag("dags")
    assert bag.import_errors == {}
    assert sorted(bag.dags) == [
        "audit_director_index",
        "build_director_index",
        "rebuild_catalog",
        "reindex_collection",
        "rollback_collection",
        "throttle_director_index",
    ]
    dag = bag.dags["reindex_collection"]
    assert {"plan", "reindex", "verify", "switch", "aggregate"} == set(dag.task_ids)
    assert dag.task_dict["reindex"].max_active_tis_per_dagrun == 4
