"""A small real deployment: API server, scheduler and DAG processor, spoken to over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import httpx

from tests.system.api import Api
from tests.system.auth import RIGHTS

ROOT = Path(__file__).parents[2]

COMPONENTS = (["api-server"], ["scheduler", "--skip-serve-logs"], ["dag-processor"])


class Deployment(Api):
    """API server, scheduler and DAG processor."""

    def __init__(self, home: Path, connections: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        roles = {"admin": "admin", "viewer": "viewer", **dict.fromkeys(RIGHTS, "user")}
        self.passwords = {name: token_hex(8) for name in roles}
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
            "AIRFLOW__CORE__AUTH_MANAGER": "tests.system.auth.RightsManager",
            "PYTHONPATH": str(ROOT),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in roles.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": self.url.rsplit(":", 1)[1],
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": token_hex(32),
            "AIRFLOW__REINDEX__STAGING_URL": str(home / "staging"),
            # Tests wait for the next task of a run many times, and change no DAG files.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            # Made-up requests come fast.
            "AIRFLOW__REINDEX__API_REQUESTS_PER_MINUTE": "1000000",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        #: The files of tests that are done with it.
        self.served: set[Path] = set()

    def start(self) -> None:
        for words in COMPONENTS:
            log = (self.home / f"{words[0]}.log").open("wb")
            command = [str(Path(sys.executable).with_name("airflow")), *words]
            self.processes.append(
                subprocess.Popen(
                    command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def wait_up(self, dags: Iterable[str], seconds: float = 900) -> None:
        """
        Wait until it answers and knows some DAGs.

        :param dags: where the API has them.
        :param seconds: for at most so long: a busy machine takes its time.
        :raises AssertionError: if it does not, or a part of it has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            with suppress(httpx.HTTPError), self.client("admin") as client:
                if all(client.get(dag).status_code == 200 for dag in dags):
                    return
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                logs = "\n".join(path.read_text()[-2000:] for path in self.home.glob("*.log"))
                raise AssertionError(f"the deployment did not come up:\n{logs}")
            time.sleep(0.3)

    def forget_runs(self) -> None:
        """Remove all runs and what they have staged, also those that a test has left at work."""
        with self.client("admin") as client:
            while found := client.get("/api/v2/dags/~/dagRuns", params={"limit": 100}).raise_for_status().json():
                if not found["dag_runs"]:
                    break
                for run in found["dag_runs"]:
                    path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'])}"
                    if run["state"] not in ("success", "failed"):
                        client.patch(path, json={"state": "failed"}).raise_for_status()
                    client.delete(path).raise_for_status()
        shutil.rmtree(self.home / "staging", ignore_errors=True)

    def stop(self) -> None:
        while self.processes:
            process = self.processes.pop()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
