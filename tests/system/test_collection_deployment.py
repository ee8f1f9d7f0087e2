"""The second job in a real deployment: windows in parallel, and a person who approves the switch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from airflow_reindex.collections.backends import open_model
from airflow_reindex.collections.pgvector import PgVectorStore, connector
from airflow_reindex.sandbox.collection_data import SOURCE_MODEL, index_documents, word_model
from airflow_reindex.sandbox.postgres import Postgres
from airflow_reindex.sandbox.texts import documents
from tests.system.conftest import APPROVED_DAG
from tests.system.deployment import Deployment, instances, trigger

ITEMS = 60
MOVE = {
    "source_embedding_model_id": SOURCE_MODEL,
    "dest_embedding_model_id": "words_256",
    "batch_size": 10,
    "alias": "packages",
    "deploy_as_blue": True,
}


@pytest.fixture(scope="module")
def packages(deployment: Deployment, postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A collection that readers follow."""
    store = PgVectorStore(connector(postgres.connection_uri("deployed")), label="test")
    index_documents(store, open_model(word_model(SOURCE_MODEL), {}), documents(ITEMS), "packages")
    store.close()
    with postgres.connect("deployed") as connection:
        yield connection


def answer(client: httpx.Client, run_id: str, word: str) -> None:
    """Wait until the task asks and is parked, and answer."""
    deadline = time.monotonic() + 120
    while True:
        states = {key: ti["state"] for key, ti in instances(client, run_id, APPROVED_DAG).items()}
        if states["approve", -1] == "awaiting_input":
            break
        assert time.monotonic() < deadline, states
        time.sleep(0.3)
    url = f"{APPROVED_DAG}/dagRuns/{quote(run_id)}/taskInstances/approve/-1/hitlDetails"
    asked = client.get(url).raise_for_status().json()
    assert "packages" in asked["subject"]
    assert f"{ITEMS} items in the source, 0 of them failed" in asked["body"]
    client.patch(url, json={"chosen_options": [word], "params_input": {}}).raise_for_status()


def link(client: httpx.Client, run_id: str, name: str) -> dict[str, Any]:
    """What a link of the last task leads to."""
    links = client.get(f"{APPROVED_DAG}/dagRuns/{quote(run_id)}/taskInstances/aggregate/links").raise_for_status()
    found: dict[str, Any] = client.get(links.json()["extra_links"][name]).raise_for_status().json()
    return found


def followed(connection: psycopg.Connection[Any]) -> str:
    """The collection that readers see."""
    ((collection_id,),) = connection.execute("SELECT collection_id FROM airflow_reindex.aliases").fetchall()
    return str(collection_id)


def test_switch_is_rejected_then_approved(deployment: Deployment, packages: psycopg.Connection[Any]) -> None:
    with deployment.client("admin") as client:
        run_id = trigger(client, APPROVED_DAG, **MOVE)
        answer(client, run_id, "Reject")
        assert deployment.wait(client, run_id, APPROVED_DAG) == "failed"
        report = link(client, run_id, "Report")
        assert report["status"] == "failed"
        assert "admin rejected the switch" in report["detail"]
        assert followed(packages) == SOURCE_MODEL

        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True}
        client.post(f"{APPROVED_DAG}/clearTaskInstances", json=body).raise_for_status()
        answer(client, run_id, "Approve")
        assert deployment.wait(client, run_id, APPROVED_DAG) == "success"
        found = instances(client, run_id, APPROVED_DAG)
        report, described = link(client, run_id, "Report"), link(client, run_id, "Collection")
    windows = {key: ti for key, ti in found.items() if key[0] == "reindex"}
    assert [windows["reindex", number]["state"] for number in range(6)] == ["success"] * 6
    assert windows["reindex", 1]["rendered_map_index"] == "offset 10, limit 10"
    assert {ti["try_number"] for ti in windows.values()} == {1}, "the windows are not done again"
    assert (report["status"], report["total"], report["failed"]) == ("done", ITEMS, 0)
    assert (described["dest"], described["status"]) == ("words_256", "done")
    assert followed(packages) == "words_256"
