"""Airflow's REST API as its users speak to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from tests.support.wait import wait_until

DAG = "/api/v2/dags/build_director_index"
#: Read once: each client would read the machine's certificates anew, which takes longer than its requests.
CERTIFICATES = httpx.create_ssl_context()
#: Seconds for an answer, which takes none of them where the machine is not busy.
PATIENCE = 120


class Api:
    """A running Airflow; `client()` speaks HTTP to it as a user."""

    url: str
    passwords: Mapping[str, str]

    def client(self, user: str | None) -> httpx.Client:
        """A client with a user's token, or with none."""
        headers = {}
        if user:
            secret = {"username": user, "password": self.passwords[user]}
            login = httpx.post(f"{self.url}/auth/token", json=secret, timeout=PATIENCE, verify=CERTIFICATES)
            headers["Authorization"] = f"Bearer {login.raise_for_status().json()['access_token']}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, verify=CERTIFICATES)

    def wait(self, client: httpx.Client, run_id: str, dag: str = DAG, seconds: float = 900) -> str:
        """Wait until a run has ended; its state."""

        def look() -> str:
            state = client.get(f"{dag}/dagRuns/{quote(run_id)}").raise_for_status().json()["state"]
            return str(state) if state in ("success", "failed") else ""

        return wait_until(look, seconds, pause=0.3)


def trigger(client: httpx.Client, dag: str = DAG, **params: Any) -> str:
    """Trigger a run; its id."""
    answer = client.post(f"{dag}/dagRuns", json={"logical_date": None, "conf": params})
    return str(answer.raise_for_status().json()["dag_run_id"])


def events(client: httpx.Client, run_id: str) -> int:
    """How many asset events a run has emitted."""
    found = client.get("/api/v2/assets/events", params={"source_run_id": run_id}).raise_for_status().json()
    return int(found["total_entries"])


def clear(client: httpx.Client, run_id: str, task: str, index: int, dag: str = DAG) -> None:
    """Clear a task and what comes after it, as a person does in the UI."""
    body = {
        "dry_run": False, "dag_run_id": run_id, "task_ids": [[task, index]], "only_failed": False,
        "include_downstream": True, "reset_dag_runs": True,
    }  # fmt: skip
    client.post(f"{dag}/clearTaskInstances", json=body).raise_for_status()


def instances(client: httpx.Client, run_id: str, dag: str = DAG) -> dict[tuple[str, int], dict[str, Any]]:
    """A run's task instances by task id and map index."""
    found = client.get(f"{dag}/dagRuns/{quote(run_id)}/taskInstances?limit=100").raise_for_status().json()
    return {(ti["task_id"], ti["map_index"]): ti for ti in found["task_instances"]}
