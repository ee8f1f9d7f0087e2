"""What dies in a deployment, while a build runs: a worker, the scheduler, the API server, the databases, the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from sandbox.catalog.catalog import CatalogSummary, truth
from tests.cluster.conftest import Cluster
from tests.support.build import assert_same, read_index, working_tables
from tests.support.wait import wait_until
from tests.system.api import DAG, instances, trigger

pytestmark = pytest.mark.cluster

ROWS, RATE = 60_000, 6_000


def restart(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.deployment.kill(name)
    time.sleep(2)
    for name in names:
        cluster.deployment.start(name)


def kill_worker(cluster: Cluster) -> None:
    """The worker that is at it, or the other one: both are killed, only one comes back at once."""
    cluster.deployment.kill("airflow-worker-1")
    cluster.deployment.kill("airflow-worker-2")
    cluster.deployment.start("airflow-worker-2")


def restart_metadata(cluster: Cluster) -> None:
    cluster.deployment.postgres.kill()
    time.sleep(2)
    cluster.deployment.postgres.up()


def restart_broker(cluster: Cluster) -> None:
    cluster.deployment.redis.kill()
    time.sleep(2)
    cluster.deployment.redis.start()


FAULTS: dict[str, Callable[[Cluster], None]] = {
    "workers killed": kill_worker,
    "scheduler killed": lambda cluster: restart(cluster, "scheduler"),
    "API server killed": lambda cluster: restart(cluster, "api-server"),
    "metadata database killed": restart_metadata,
    "broker killed": restart_broker,
}


@contextmanager
def healed(cluster: Cluster) -> Iterator[None]:
    """All components are there again afterwards."""
    try:
        yield
    finally:
        for name in ("api-server", "scheduler", "dag-processor", "triggerer", "airflow-worker-1", "airflow-worker-2"):
            process = cluster.deployment.processes.get(name)
            if process is None or process.poll() is not None:
                if process is not None:
                    cluster.deployment.kill(name)
                cluster.deployment.start(name)
        cluster.wait_up()


@pytest.fixture(scope="module")
def catalog(cluster: Cluster) -> CatalogSummary:
    """A catalog whose throttled build lasts long enough."""
    return cluster.make_catalog("sky_faults", rows=ROWS, chunks=40)


def started(task: str, run_id: str) -> Callable[[httpx.Client], bool]:
    def look(client: httpx.Client) -> bool:
        return any(key[0] == task and ti["state"] == "running" for key, ti in instances(client, run_id).items())

    return look


def wait(cluster: Cluster, run_id: str, seconds: float = 300) -> str:
    """The state in which a run has ended, past an API server that is away."""

    def look() -> str:
        # A scheduler ends when its database is away; whoever runs one has it started again.
        cluster.deployment.revive()
        try:
            with cluster.client("admin") as client:
                state = str(client.get(f"{DAG}/dagRuns/{run_id}").raise_for_status().json()["state"])
        except httpx.HTTPError:
            return ""
        return state if state in ("success", "failed") else ""

    return wait_until(look, seconds, pause=1)


@pytest.mark.parametrize("task", ["extract", "load"])
@pytest.mark.parametrize("fault", FAULTS)
def test_build_survives(cluster: Cluster, catalog: CatalogSummary, fault: str, task: str) -> None:
    index = f"{catalog.spec.database}__Object"
    with cluster.client("admin") as client:
        run_id = trigger(
            client, database=catalog.spec.database, director_table="Object", local=1, rebuild=1,
            max_rows_per_second=RATE,
        )  # fmt: skip
    cluster.poll(started(task, run_id))
    time.sleep(1)
    with healed(cluster):
        FAULTS[fault](cluster)
        state = wait(cluster, run_id)
    with cluster.client("admin") as client:
        if state == "failed":
            # More was lost than the retries could mend: a person clears what failed, and only that is done again.
            body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True}
            client.post(f"{DAG}/clearTaskInstances", json=body).raise_for_status()
            state = wait(cluster, run_id)
        assert state == "success", cluster.report(client, run_id)
        report = cluster.report(client, run_id)
    assert (report["status"], report["rows"]) == ("done", ROWS)
    assert_same(read_index(cluster.deployment.qserv, index), truth(catalog.spec).index_rows())
    assert working_tables(cluster.deployment.qserv, index) == []
