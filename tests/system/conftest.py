"""DAG runs in this process, as `airflow dags test` makes them, and a deployment; against the sandbox."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from airflow_reindex.core.staging import Folder
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.collection.collection_data import SOURCE_MODEL, index_documents, model_connections, word_model
from sandbox.collection.texts import documents
from sandbox.servers.cluster import Sandbox
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.conftest import HOME
from tests.support.build import run_sql
from tests.support.reindex import DIMENSIONS
from tests.system.api import DAG as DIRECTOR_DAG
from tests.system.browser import close_chromium
from tests.system.deployment import Deployment

_NUMBERS = itertools.count()
PRISTINE = HOME / "pristine.db"


@dataclass
class Run:
    """A DAG run that has ended."""

    dag_run: Any

    @property
    def state(self) -> str:
        return str(self.dag_run.state)

    @property
    def folder(self) -> Folder:
        return run_folder(self.dag_run.dag_id, self.dag_run.run_id)

    @property
    def report(self) -> dict[str, Any]:
        """The DAG's result, which must be what is in the run's folder too."""
        result = self.dag_run.get_task_instance("aggregate").xcom_pull(task_ids="aggregate")
        assert result == self.folder.read_json("report.json")
        return dict(result)

    @property
    def tasks(self) -> dict[str, str]:
        """States by task id, with the map index of mapped ones."""
        return {
            ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]": str(ti.state)
            for ti in self.dag_run.get_task_instances()
        }


@pytest.fixture(scope="session")
def airflow() -> None:
    """A migrated metadata database."""
    from airflow.utils.db import initdb

    initdb()
    # For deployments of their own: what the runs of this session leave must not keep their schedulers busy.
    with sqlite3.connect(HOME / "airflow.db") as migrated, sqlite3.connect(PRISTINE) as copy:
        migrated.backup(copy)


@pytest.fixture
def dags(airflow: None) -> DagBag:
    """The DAGs of the test folder."""
    bag = DagBag()
    assert bag.import_errors == {}
    return bag


@pytest.fixture
def connections(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set Airflow's connections to the sandbox; with changes to the extra of the qserv connection."""

    def connect(**extra: Any) -> None:
        for name, value in sandbox.connections().items():
            changed = json.loads(value)
            if name == "AIRFLOW_CONN_QSERV_DEFAULT":
                changed["extra"] = {k: v for k, v in {**changed["extra"], **extra}.items() if v is not None}
            monkeypatch.setenv(name, json.dumps(changed))

    connect()
    return connect


@pytest.fixture
def run_dag(airflow: None) -> Callable[..., Run]:
    """Run a DAG to its end, in this process."""

    def run(dag_id: str, **conf: Any) -> Run:
        # Parsed anew for each run: a run's conf is merged into the params of the DAG object.
        dag = DagBag().dags[dag_id]
        assert isinstance(dag, DAG)
        ended = Run(dag.test(run_conf=conf))
        print(f"{ended.state}: {ended.folder.read_json('report.json')}")
        return ended

    return run


@pytest.fixture
def trigger(run_dag: Callable[..., Run], connections: Callable[..., None]) -> Callable[..., Run]:
    """Run a DAG that builds director indexes."""

    def run(dag_id: str = "build_director_index", **conf: Any) -> Run:
        return run_dag(dag_id, **conf)

    return run


def restore_table(sandbox: Sandbox, worker: str, database: str, chunk: int, like: int) -> None:
    """Make a missing chunk table, empty."""
    tables = f"`{database}`.Object_{chunk} LIKE `{database}`.Object_{like}"
    run_sql(sandbox.workers[worker], f"CREATE TABLE {tables}")


APPROVED_DAG = "/api/v2/dags/approved_reindex"
APPROVED = """
from airflow_reindex.dag_factory import collection_reindex_dag

dag = collection_reindex_dag("approved_reindex", bind={"max_subtasks": 2}, approval=True)
"""


#: What clients of Qserv's service have in their requests.
QSERV_KEY, QSERV_ADMIN_KEY = token_hex(8), token_hex(8)


#: Where the deployment finds collections.
COLLECTIONS = "deployed"


@pytest.fixture(scope="session")
def deployed(
    airflow: None, sandbox: Sandbox, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A running deployment with the project's DAGs, and one that asks for approval."""
    home = tmp_path_factory.mktemp("airflow")
    shutil.copy(PRISTINE, home / "airflow.db")
    shutil.copytree(Path(__file__).parents[2] / "dags", home / "dags")
    (home / "dags" / "approved.py").write_text(APPROVED)
    postgres.create_database(COLLECTIONS)
    found = {"collections_default": postgres.airflow_connection(COLLECTIONS), **model_connections()}
    collections = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in found.items()}
    key = json.dumps({"conn_type": "generic", "password": QSERV_KEY, "extra": {"admin_auth_key": QSERV_ADMIN_KEY}})
    running = Deployment(home, {**sandbox.connections(), **collections, "AIRFLOW_CONN_QSERV_API": key})
    running.start()
    try:
        running.wait_up((DIRECTOR_DAG, APPROVED_DAG))
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def deployment(request: pytest.FixtureRequest, deployed: Deployment) -> Iterator[Deployment]:
    """The session's deployment, which has forgotten the runs of other modules; the last one stops it."""
    deployed.forget_runs()
    yield deployed
    close_chromium()
    deployed.served.add(request.path)
    users = {item.path for item in request.session.items if "deployment" in getattr(item, "fixturenames", ())}
    if deployed.served >= users:
        deployed.stop()


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """An embedding server with an old and a new model, and a key."""
    with EmbeddingServer(DIMENSIONS, key="secret-key") as server:
        yield server


@pytest.fixture
def vectors(
    postgres: Postgres, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """A new database, to which Airflow's connections lead; the models' lead to the server."""
    name = f"dag_{next(_NUMBERS)}"
    postgres.create_database(name)
    monkeypatch.setenv("AIRFLOW_CONN_COLLECTIONS_DEFAULT", json.dumps(postgres.airflow_connection(name)))
    for model, dimensions in DIMENSIONS.items():
        value = {
            "conn_type": "embedding_model",
            "host": f"{server.url}/v1",
            "password": "secret-key",
            "extra": {"backend": "openai", "dimensions": dimensions, "batch_size": 16},
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{model.upper()}", json.dumps(value))
    with postgres.connect(name) as connection:
        yield connection
    postgres.drop_database(name)


#: In the collection that readers of the deployment follow.
ITEMS = 60


@pytest.fixture(scope="module")
def packages(deployment: Deployment, postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A collection that readers follow; nothing else is in the database."""
    postgres.drop_database(COLLECTIONS)
    postgres.create_database(COLLECTIONS)
    store = PgVectorStore(connector(postgres.connection_uri(COLLECTIONS)), label="test")
    index_documents(store, open_model(word_model(SOURCE_MODEL), {}), documents(ITEMS), "packages")
    store.close()
    with postgres.connect(COLLECTIONS) as connection:
        yield connection


@contextmanager
def without_text(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """An item of that collection without a text, so that it cannot be embedded; its id."""
    table = f"dbo_{SOURCE_MODEL}"
    found = connection.execute(f"SELECT object_id, payload::text FROM {table} ORDER BY 1 LIMIT 1").fetchall()
    ((bad, payload),) = found
    connection.execute(f"UPDATE {table} SET payload = '{{}}' WHERE object_id = %s", (bad,))
    connection.commit()
    try:
        yield str(bad)
    finally:
        connection.execute(f"UPDATE {table} SET payload = %s WHERE object_id = %s", (payload, bad))
        connection.commit()
