"""A deployment of several machines, as plain processes that share no folder; for `make cluster-test` alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate
from sandbox.deployment.deployment import VECTORS, Deployment
from tests.support.wait import wait_until
from tests.system.api import DAG, Api

ROOT = Path(__file__).resolve().parents[2]

NIGHTLY = """
from datetime import datetime, timezone

from airflow_reindex.dag_factory import collection_reindex_dag, director_index_dag

start = datetime(2026, 1, 1, tzinfo=timezone.utc)
sky = {"database": "sky_nightly", "director_table": "Object", "rebuild": 1, "local": 1}
director = director_index_dag("nightly_sky", bind=sky, schedule="* * * * *", start_date=start, max_active_runs=1)
models = {"source_embedding_model_id": "words_64", "dest_embedding_model_id": "words_128"}
collection = collection_reindex_dag(
    "nightly_words", bind=models, schedule="* * * * *", start_date=start, max_active_runs=1
)
"""

#: A dead worker's tasks are found after this time instead of five minutes.
IMPATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
}


class Cluster(Api):
    """The deployment, and its REST API."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.url, self.passwords = deployment.url, deployment.passwords

    def wait_up(self, seconds: float = 120) -> None:
        """Wait until the API server answers and the scheduler beats."""

        def healthy() -> bool:
            try:
                health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10).raise_for_status().json()
            except httpx.HTTPError:
                return False
            return all(health[name]["status"] == "healthy" for name in ("metadatabase", "scheduler"))

        wait_until(healthy, seconds, pause=0.5)

    def poll(self, ready: Callable[[httpx.Client], bool], seconds: float = 120) -> None:
        """Wait until something is so."""
        with self.client("admin") as client:
            wait_until(lambda: ready(client), seconds, pause=0.3)

    def report(self, client: httpx.Client, run_id: str, dag: str = DAG, task: str = "aggregate") -> dict[str, Any]:
        """The result of a run's last task."""
        entry = f"{dag}/dagRuns/{quote(run_id)}/taskInstances/{task}/xcomEntries/return_value"
        value = client.get(entry).raise_for_status().json()["value"]
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        return found

    def log(self, client: httpx.Client, run_id: str, task: str, dag: str = DAG, map_index: int = -1) -> str:
        """A task's log as the UI shows it."""
        path = f"{dag}/dagRuns/{quote(run_id)}/taskInstances/{task}/logs/1?map_index={map_index}"
        return client.get(path, headers={"Accept": "application/json"}, timeout=60).raise_for_status().text

    def staged(self) -> list[str]:
        """What is in the staging bucket."""
        objects = self.deployment.store.client().list_objects_v2(Bucket="reindex", MaxKeys=1000)
        return [entry["Key"] for entry in objects.get("Contents", [])]

    def make_catalog(self, database: str, **values: Any) -> CatalogSummary:
        """A catalog on the deployment's Qserv."""
        return generate(self.deployment.qserv, CatalogSpec(database=database, **values))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running deployment."""
    dags = tmp_path_factory.mktemp("dags")
    for file in (ROOT / "dags").glob("*.py"):
        (dags / file.name).write_text(file.read_text())
    (dags / "nightly.py").write_text(NIGHTLY)
    with Deployment(tmp_path_factory.mktemp("cluster"), dags, IMPATIENT) as deployment:
        running = Cluster(deployment)
        running.wait_up()
        names = ["nightly_sky", "nightly_words", *(path.stem for path in (ROOT / "dags").glob("*.py"))]
        running.poll(lambda client: all(client.get(f"/api/v2/dags/{name}").is_success for name in names))
        with running.client("admin") as client:
            for path in dags.glob("*.py"):
                if path.stem != "nightly":
                    client.patch(f"/api/v2/dags/{path.stem}", json={"is_paused": False}).raise_for_status()
        yield running


@pytest.fixture(scope="session")
def vectors(cluster: Cluster) -> str:
    """The database of the collections."""
    return VECTORS
