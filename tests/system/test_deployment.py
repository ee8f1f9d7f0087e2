"""A small real deployment: API server, scheduler and DAG processor; triggered, looked at and cleared over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from airflow_reindex.sandbox.catalog import CatalogSpec, truth
from airflow_reindex.sandbox.cluster import Sandbox
from airflow_reindex.sandbox.fixtures import CatalogFactory
from tests.harness import assert_same, read_index, working_tables
from tests.system.conftest import PRISTINE
from tests.system.test_director_failures import restore_table

COMPONENTS = (["api-server"], ["scheduler", "--skip-serve-logs"], ["dag-processor"])
DAG = "/api/v2/dags/build_director_index"


class Deployment:
    """A running Airflow; `client()` speaks HTTP to it as a user."""

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.passwords = {"admin": token_hex(8), "viewer": token_hex(8)}
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps(self.passwords))
        self.home = home
        self.environment = {
            **os.environ,
            **sandbox.connections(),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parents[2] / "dags"),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": self.url.rsplit(":", 1)[1],
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": token_hex(32),
            "AIRFLOW__REINDEX__STAGING_URL": str(home / "staging"),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for words in COMPONENTS:
            log = (self.home / f"{words[0]}.log").open("wb")
            command = [str(Path(sys.executable).with_name("airflow")), *words]
            self.processes.append(
                subprocess.Popen(
                    command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def stop(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def client(self, user: str | None) -> httpx.Client:
        """A client with a user's token, or with none."""
        headers = {}
        if user:
            secret = {"username": user, "password": self.passwords[user]}
            login = httpx.post(f"{self.url}/auth/token", json=secret, timeout=30)
            headers["Authorization"] = f"Bearer {login.raise_for_status().json()['access_token']}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def wait(self, client: httpx.Client, run_id: str, states: set[str], seconds: float = 150) -> str:
        """Wait until a run is in one of some states."""
        deadline = time.monotonic() + seconds
        state = ""
        while time.monotonic() < deadline:
            state = client.get(f"{DAG}/dagRuns/{quote(run_id)}").raise_for_status().json()["state"]
            if state in states:
                return str(state)
            time.sleep(0.3)
        raise AssertionError(f"run {run_id} is still {state}")


@pytest.fixture(scope="module")
def deployment(airflow: None, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("airflow")
    shutil.copy(PRISTINE, home / "airflow.db")
    running = Deployment(home, sandbox)
    running.start()
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if running.client("admin").get(DAG).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline or any(p.poll() is not None for p in running.processes):
                logs = "\n".join(path.read_text()[-2000:] for path in home.glob("*.log"))
                raise AssertionError(f"the deployment did not come up:\n{logs}")
            time.sleep(0.3)
        yield running
    finally:
        running.stop()


def trigger(client: httpx.Client, **params: Any) -> str:
    answer = client.post(f"{DAG}/dagRuns", json={"logical_date": None, "conf": params})
    return str(answer.raise_for_status().json()["dag_run_id"])


def instances(client: httpx.Client, run_id: str) -> dict[tuple[str, int], dict[str, Any]]:
    found = client.get(f"{DAG}/dagRuns/{quote(run_id)}/taskInstances?limit=100").raise_for_status().json()
    return {(ti["task_id"], ti["map_index"]): ti for ti in found["task_instances"]}


def test_clearing_failed_tasks_resumes_the_run(
    deployment: Deployment, sandbox: Sandbox, catalog: CatalogFactory
) -> None:
    made = catalog(CatalogSpec(rows=150_000, chunks=60, missing=1, seed=21), fresh=True)
    index = f"{made.spec.database}__Object"
    with deployment.client("admin") as client:
        run_id = trigger(client, database=made.spec.database, director_table="Object")
        assert deployment.wait(client, run_id, {"success", "failed"}) == "failed"
        first = instances(client, run_id)
        bad = [key for key, ti in first.items() if key[0] == "extract" and ti["state"] == "failed"]
        assert len(bad) == 1, first
        assert "worker-" in first[bad[0]]["rendered_map_index"]

        ((chunk, (worker, *_)),) = made.missing_on.items()
        other = next(c for c, workers in made.placement.items() if c != chunk and worker in workers)
        restore_table(sandbox, worker, made.spec.database, chunk, other)
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True}
        client.post(f"{DAG}/clearTaskInstances", json=body).raise_for_status()
        assert deployment.wait(client, run_id, {"success", "failed"}) == "success"
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
        assert deployment.wait(client, run_id, {"success", "failed"}) == "success"
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
