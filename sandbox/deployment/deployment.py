"""Airflow as a deployment of several machines has it, on this one: no two of its components share a folder."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from sandbox.collection.collection_data import model_connections
from sandbox.deployment import deployment_spec
from sandbox.servers.cluster import Sandbox
from sandbox.servers.datadir import SandboxError, write_private
from sandbox.servers.objects import ObjectStore
from sandbox.servers.parent_death import with_parent
from sandbox.servers.postgres import Postgres
from sandbox.servers.redis import Redis

METADATA, VECTORS = "airflow", "vectors"
_WAIT_SECONDS = 180.0


class Deployment:
    """API server, scheduler, DAG processor, triggerer and two Celery workers, with all the servers they need.

    :param root: the folder of everything that is made
    :param dags: a folder with DAG files; each component that reads them has a copy of its own
    :param settings: environment variables over those of the components' own
    """

    def __init__(self, root: Path, dags: Path, settings: Mapping[str, str] | None = None) -> None:
        self.root, self._dags, self._changed = root.absolute(), dags, dict(settings or {})
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.passwords = {"admin": secrets.token_urlsafe(12)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._stack:
            self._stack.callback(self.stop)
            self.redis = self._stack.enter_context(Redis(self.root / "redis"))
            self.store = self._stack.enter_context(ObjectStore())
            self.qserv = self._stack.enter_context(Sandbox(self.root / "qserv"))
            self.postgres = self._stack.enter_context(Postgres(self.root / "postgres"))
            self._environment = self._settings()
            self._prepare()
            for name in deployment_spec.COMMANDS:
                self.start(name)
            self._wait()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self, name: str) -> None:
        """Start a component.

        :param name: one of :data:`~sandbox.deployment.deployment_spec.COMMANDS`
        """
        command = [*deployment_spec.COMMANDS[name]]
        if command[0] == "celery":
            # On machines of their own their names would differ by themselves.
            command += ["--celery-hostname", name]
        self.processes[name] = self._airflow(name, *command)

    def kill(self, name: str) -> None:
        """Kill a component and all its processes, as a machine that loses power does.

        :param name: one of :data:`~sandbox.deployment.deployment_spec.COMMANDS`
        """
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def revive(self) -> None:
        """Start each component again that has ended by itself, as a service manager does."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.kill(name)
                self.start(name)

    def stop(self) -> None:
        """Kill all components of Airflow."""
        for name in list(self.processes):
            self.kill(name)

    def home(self, name: str) -> Path:
        """The folder of a component, its ``AIRFLOW_HOME``.

        :param name: one of :data:`~sandbox.deployment.deployment_spec.COMMANDS`
        :returns: the folder
        """
        return self.root / name

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line ``airflow-reindex`` as somebody on a machine of the deployment does.

        :param arguments: of the command line
        :returns: how it ended and what it said
        """
        return subprocess.run(  # noqa: S603
            [sys.executable, "-m", "airflow_reindex.cli", *arguments],
            env={**self._environment, **self._places("init")},
            capture_output=True,
            text=True,
            check=False,
        )

    def _settings(self) -> dict[str, str]:
        """What all components have in common."""
        for database in (METADATA, VECTORS):
            self.postgres.create_database(database)
        uri = self.postgres.connection_uri(METADATA).replace("postgresql://", "postgresql+psycopg2://")
        own = {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.root / "passwords.json"),
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CELERY__BROKER_URL": self.redis.url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": uri,
        }
        here = {
            # A container has addresses of its own; here nothing may listen on others than loopback.
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": self.url.rsplit(":", 1)[1],
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "false",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
        }
        foreign = ("AIRFLOW", "AWS_", "FORCE_COLOR", "PYTEST_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {**clean, **deployment_spec.SETTINGS, **own, **here, **self._changed}

    def connections(self) -> dict[str, dict[str, Any]]:
        """Airflow's connections, by id; they hold passwords. MySQL's servers and the tasks share no folder."""
        found: dict[str, dict[str, Any]] = {
            deployment_spec.STORE_CONN_ID: self.store.airflow_connection(),
            "collections_default": self.postgres.airflow_connection(VECTORS),
            **model_connections(),
        }
        for variable, value in self.qserv.connections().items():
            described = json.loads(value)
            for name in ("staging_dir", "server_staging_dir", "data_dir"):
                described.get("extra", {}).pop(name, None)
            found[variable.removeprefix("AIRFLOW_CONN_").lower()] = described
        return found

    def _prepare(self) -> None:
        """What the step `init` of the containers does."""
        write_private(self.root / "passwords.json", json.dumps(self.passwords))
        for bucket in (deployment_spec.STAGING_BUCKET, deployment_spec.LOG_BUCKET):
            self.store.client().create_bucket(Bucket=bucket)
        for name in (*deployment_spec.COMMANDS, "init"):
            home = self.home(name)
            shutil.rmtree(home / "dags", ignore_errors=True)
            shutil.copytree(self._dags, home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
            (home / "tmp").mkdir(exist_ok=True, mode=0o700)
        files = {"connections": self.connections(), "pools": deployment_spec.POOLS}
        commands = [["db", "migrate"]]
        for kind, content in files.items():
            file = self.root / f"{kind}.json"
            described = {name: dict(value) for name, value in content.items()}
            for value in described.values():
                if isinstance(value.get("extra"), dict):
                    value["extra"] = json.dumps(value["extra"])
            write_private(file, json.dumps(described))
            commands.append([kind, "import", *(["--overwrite"] if kind == "connections" else []), str(file)])
        try:
            for command in commands:
                if self._airflow("init", *command).wait(_WAIT_SECONDS):
                    raise SandboxError(f"airflow {' '.join(command[:2])} failed\n{self.tail('init')}")
        finally:
            for kind in files:
                (self.root / f"{kind}.json").unlink(missing_ok=True)

    def _airflow(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        home = self.home(name)
        with (home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a list of arguments of its own, no shell
                with_parent([sys.executable, "-m", "airflow", *arguments]),
                env={**self._environment, **self._places(name)},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _places(self, name: str) -> dict[str, str]:
        """A component's own folders."""
        home = self.home(name)
        return {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "TMPDIR": str(home / "tmp"),
        }

    def _wait(self) -> None:
        """Wait until the API server answers and the workers listen."""
        deadline = time.monotonic() + _WAIT_SECONDS
        waiting = set(deployment_spec.COMMANDS)
        while waiting:
            for name in sorted(waiting):
                if self.processes[name].poll() is not None or time.monotonic() > deadline:
                    raise SandboxError(f"{name} did not come up\n{self.tail(name)}")
                if self._ready(name):
                    waiting.discard(name)
            time.sleep(0.2)

    def _ready(self, name: str) -> bool:
        if name == "api-server":
            try:
                return httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).status_code == 200
            except httpx.HTTPError:
                return False
        if deployment_spec.COMMANDS[name][0] == "celery":
            return " ready." in self._log(name)
        return bool(self._log(name))

    def _log(self, name: str) -> str:
        return (self.home(name) / f"{name}.log").read_text(errors="replace")

    def tail(self, name: str) -> str:
        """The end of a component's output.

        :param name: one of :data:`~sandbox.deployment.deployment_spec.COMMANDS`
        :returns: some lines
        """
        return "\n".join([f"the end of {name}'s output:", *self._log(name).splitlines()[-40:]])
