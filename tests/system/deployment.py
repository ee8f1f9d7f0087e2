"""A small real deployment: API server, scheduler and DAG processor, spoken to over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import httpx

COMPONENTS = (["api-server"], ["scheduler", "--skip-serve-logs"], ["dag-processor"])
DAG = "/api/v2/dags/build_director_index"


class Deployment:
    """A running Airflow; `client()` speaks HTTP to it as a user."""

    def __init__(self, home: Path, connections: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.passwords = {"admin": token_hex(8), "viewer": token_hex(8)}
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps(self.passwords))
        self.home = home
        self.environment = {
            **os.environ,
            **connections,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
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

    def wait(self, client: httpx.Client, run_id: str, dag: str = DAG, seconds: float = 150) -> str:
        """Wait until a run has ended; its state."""
        states = {"success", "failed"}
        deadline = time.monotonic() + seconds
        state = ""
        while time.monotonic() < deadline:
            state = client.get(f"{dag}/dagRuns/{quote(run_id)}").raise_for_status().json()["state"]
            if state in states:
                return str(state)
            time.sleep(0.3)
        raise AssertionError(f"run {run_id} is still {state}")


def trigger(client: httpx.Client, dag: str = DAG, **params: Any) -> str:
    """Trigger a run; its id."""
    answer = client.post(f"{dag}/dagRuns", json={"logical_date": None, "conf": params})
    return str(answer.raise_for_status().json()["dag_run_id"])


def instances(client: httpx.Client, run_id: str, dag: str = DAG) -> dict[tuple[str, int], dict[str, Any]]:
    """A run's task instances by task id and map index."""
    found = client.get(f"{dag}/dagRuns/{quote(run_id)}/taskInstances?limit=100").raise_for_status().json()
    return {(ti["task_id"], ti["map_index"]): ti for ti in found["task_instances"]}
