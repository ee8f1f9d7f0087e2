"""The first job in a real deployment: triggered, looked at and cleared over HTTP."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from airflow_reindex.sandbox.catalog import CatalogSpec, truth
from airflow_reindex.sandbox.cluster import Sandbox
from airflow_reindex.sandbox.fixtures import CatalogFactory
from tests.harness import assert_same, read_index, working_tables
from tests.system.deployment import DAG, Deployment, instances, trigger
from tests.system.test_director_failures import restore_table


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
