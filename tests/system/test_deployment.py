"""Both jobs in a real deployment: triggered, looked at, cleared and approved over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.collection.collection_data import SOURCE_MODEL
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, read_index, working_tables
from tests.system.api import DAG, clear, events, instances, trigger
from tests.system.conftest import APPROVED_DAG, ITEMS, restore_table
from tests.system.deployment import Deployment

MOVE = {
    "source_embedding_model_id": SOURCE_MODEL,
    "dest_embedding_model_id": "words_256",
    "batch_size": 10,
    "alias": "packages",
    "deploy_as_blue": True,
}


def test_clearing_failed_tasks_resumes_the_run(
    deployment: Deployment, sandbox: Sandbox, catalog: CatalogFactory
) -> None:
    made = catalog(CatalogSpec(rows=150_000, chunks=60, missing=1, seed=21), fresh=True)
    index = f"{made.spec.database}__Object"
    with deployment.client("admin") as client:
        run_id = trigger(client, database=made.spec.database, director_table="Object")
        assert deployment.wait(client, run_id) == "failed"
        first = instances(client, run_id)
        bad = [key for key, ti in first.items() if key[0] == "extract" and ti["state"] == "failed"]
        assert len(bad) == 1, first
        assert "worker-" in first[bad[0]]["rendered_map_index"]

        ((chunk, (worker, *_)),) = made.missing_on.items()
        other = next(c for c, workers in made.placement.items() if c != chunk and worker in workers)
        restore_table(sandbox, worker, made.spec.database, chunk, other)
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True}
        client.post(f"{DAG}/clearTaskInstances", json=body).raise_for_status()
        assert deployment.wait(client, run_id) == "success"
        second = instances(client, run_id)
        again = {key for key, ti in second.items() if ti["try_number"] > 1}
        assert {key for key in again if key[0] == "extract"} == set(bad), "whole groups are not read again"
        result = f"{DAG}/dagRuns/{quote(run_id)}/taskInstances/aggregate/xcomEntries/return_value"
        report = client.get(result).raise_for_status().json()["value"]
        report = json.loads(report) if isinstance(report, str) else report
        assert report["status"] == "done"
    assert_same(read_index(sandbox, index), truth(made.spec).index_rows((chunk,)))
    assert working_tables(sandbox, index) == []


def test_links_lead_to_report_and_index(deployment: Deployment, catalog: CatalogFactory) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    index = f"{made.spec.database}__Object"
    with deployment.client("admin") as client:
        run_id = trigger(client, database=made.spec.database, director_table="Object", rebuild=1)
        assert deployment.wait(client, run_id) == "success"
        links = client.get(f"{DAG}/dagRuns/{quote(run_id)}/taskInstances/aggregate/links").raise_for_status().json()
        report_link = links["extra_links"]["Report"]
        assert report_link.startswith(deployment.url)
        assert client.get(report_link).raise_for_status().json()["rows"] == made.rows
        described = client.get(links["extra_links"]["Index"]).raise_for_status().json()
        assert (described["table"], described["status"], described["rows"]) == (index, "done", made.rows)
        assert list(described["columns"]) == ["objectId", "chunkId", "subChunkId"]
    with deployment.client("viewer") as viewer:
        assert viewer.get(report_link).status_code == 200
    with deployment.client(None) as nobody:
        answer = nobody.get(report_link)
        assert answer.status_code == 401
        assert "rows" not in answer.text


def test_a_done_run_of_which_something_fails_is_not_done(deployment: Deployment, catalog: CatalogFactory) -> None:
    """Its staged rows are gone, and its report is of an earlier life; resumed it begins anew."""
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    with deployment.client("admin") as client:
        run_id = trigger(client, database=made.spec.database, director_table="Object", rebuild=1)
        assert deployment.wait(client, run_id) == "success"
        assert events(client, run_id) == 1
        clear(client, run_id, "extract", 0)
        assert deployment.wait(client, run_id) == "failed"
        report = client.get(f"/reindex/report/build_director_index/{quote(run_id)}").raise_for_status().json()
        assert (report["status"], report["rows"]) == ("failed", 0)
        assert "extract[0]" in report["detail"]
        assert "clear the run from its task 'plan' on" in report["detail"]
        assert events(client, run_id) == 1


@pytest.mark.parametrize("path", ["/reindex/report/build_director_index/none", "/reindex/report/x/..%2F..%2Fetc"])
def test_no_report(deployment: Deployment, path: str) -> None:
    with deployment.client("admin") as client:
        assert client.get(path).status_code == 404
    with deployment.client(None) as nobody:
        assert nobody.get(path).status_code in (401, 404)


def test_the_form_explains_every_param(deployment: Deployment) -> None:
    with deployment.client("admin") as client:
        params = client.get(f"{DAG}/details").raise_for_status().json()["params"]
    assert list(params)[:3] == ["database", "director_table", "rebuild"]
    assert all(param.get("description") or param["schema"].get("description") for param in params.values())


def answer(client: httpx.Client, run_id: str, word: str) -> str:
    """Answer when the task asks, until the run has ended; its state."""
    run = f"{APPROVED_DAG}/dagRuns/{quote(run_id)}"
    deadline = time.monotonic() + 600
    while (state := client.get(run).raise_for_status().json()["state"]) not in ("success", "failed"):
        assert time.monotonic() < deadline, instances(client, run_id, APPROVED_DAG)
        if instances(client, run_id, APPROVED_DAG)["approve", -1]["state"] == "awaiting_input":
            # A scheduler that has not yet heard that the process which asked has ended takes a quick answer for a
            # lost task, and asks again. No person answers so fast.
            time.sleep(6)
            url = f"{run}/taskInstances/approve/-1/hitlDetails"
            asked = client.get(url).raise_for_status().json()
            assert "packages" in asked["subject"]
            assert f"{ITEMS} items in the source, 0 of them failed" in asked["body"]
            client.patch(url, json={"chosen_options": [word], "params_input": {}}).raise_for_status()
        time.sleep(0.5)
    return str(state)


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
        assert answer(client, run_id, "Reject") == "failed"
        report = link(client, run_id, "Report")
        assert report["status"] == "failed"
        assert "admin rejected the switch" in report["detail"]
        assert followed(packages) == SOURCE_MODEL

        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True}
        client.post(f"{APPROVED_DAG}/clearTaskInstances", json=body).raise_for_status()
        assert answer(client, run_id, "Approve") == "success"
        found = instances(client, run_id, APPROVED_DAG)
        report, described = link(client, run_id, "Report"), link(client, run_id, "Collection")
    windows = {key: ti for key, ti in found.items() if key[0] == "reindex"}
    assert [windows["reindex", number]["state"] for number in range(6)] == ["success"] * 6
    assert windows["reindex", 1]["rendered_map_index"] == "offset 10, limit 10"
    assert {ti["try_number"] for ti in windows.values()} == {1}, "the windows are not done again"
    assert (report["status"], report["total"], report["failed"]) == ("done", ITEMS, 0)
    assert (described["dest"], described["status"]) == ("words_256", "done")
    assert followed(packages) == "words_256"
