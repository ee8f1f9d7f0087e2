"""Qserv's service that builds director indexes, spoken to as its clients speak to it; behind it a real deployment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from airflow_reindex.plugin.contracts.qserv_protocol import NO_VERSION, VERSION
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, read_index, run_sql
from tests.system.api import DAG, instances
from tests.system.conftest import QSERV_ADMIN_KEY, QSERV_KEY
from tests.system.deployment import Deployment

BUILD, META = "/reindex/ingest/index/secondary", "/reindex/meta/version"
FIELDS = {"success", "error", "error_ext", "warning"}
OBSOLETE = "Option 'allow_for_published' is obsolete as of the version 22 of the API."


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client that knows nothing of Airflow, and has a key."""
    with httpx.Client(base_url=deployment.url, timeout=600) as found:
        yield found


def ask(client: httpx.Client, database: str = "none", **more: Any) -> dict[str, Any]:
    """Ask for an index; the answer, which must have come with status 200."""
    body = {"database": database, "director_table": "Object", "auth_key": QSERV_KEY, **more}
    answer = client.post(BUILD, json={name: value for name, value in body.items() if value is not ...})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    found: dict[str, Any] = answer.json()
    assert found.keys() >= FIELDS
    return found


def test_existing_clients_build_indexes(client: httpx.Client, sandbox: Sandbox, catalog: CatalogFactory) -> None:
    """As Rubin's script (version 49, or none), as qserv-ingest (keys and options of old), and the newest."""
    made = catalog(CatalogSpec(rows=2_000, chunks=10), fresh=True)
    database = made.spec.database
    assert ask(client, database, rebuild=0, version=49, admin_auth_key=QSERV_ADMIN_KEY) == {
        "success": 1, "error": "", "error_ext": {}, "warning": "",
    }  # fmt: skip
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())
    again = ask(client, database, version=55)
    assert again["success"] == 0
    assert again["error"].startswith("operation failed due to: ")
    assert "already exists" in again["error"]
    assert "errno: 1050" in again["error"]
    assert again["error_ext"] == {}
    old = ask(client, database, rebuild=1, allow_for_published=1, local=1)
    assert old["success"] == 1
    assert old["warning"].split("; ")[:2] == [NO_VERSION, OBSOLETE]
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())


def test_a_dry_run_builds_nothing(client: httpx.Client, sandbox: Sandbox, catalog: CatalogFactory) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    index = f"{made.spec.database}__Object"
    run_sql(sandbox.czar, f"CREATE OR REPLACE TABLE qservMeta.`{index}` (objectId BIGINT, chunkId INT, subChunkId INT)")
    try:
        found = ask(client, made.spec.database, rebuild=1, dry_run=True, dryrun=1, version=VERSION)
        assert (found["success"], found["error"]) == (1, "")
        unknown, said = found["warning"].split("; ")
        assert "Option 'dryrun' is unknown" in unknown
        assert said.startswith("dry_run: nothing was built")
        assert len(read_index(sandbox, index)[0]) == 0, "the index is as it was"
    finally:
        run_sql(sandbox.czar, f"DROP TABLE qservMeta.`{index}`")


def test_errors_of_chunks_in_the_documented_shape(client: httpx.Client, catalog: CatalogFactory) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=12, missing=2, seed=31), fresh=True)
    found = ask(client, made.spec.database, version=VERSION)
    assert (found["success"], found["error"]) == (0, "index creation failed")
    expected = {(workers[0], str(chunk)) for chunk, workers in made.missing_on.items()}
    assert {(w, c) for w, chunks in found["error_ext"]["Object"].items() for c in chunks} == expected
    assert all("1146" in message for chunks in found["error_ext"]["Object"].values() for message in chunks.values())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"database": ...}, "required parameter database is missing in the request body"),
        ({"director_table": ...}, "required parameter director_table is missing in the request body"),
        (
            {"director_table": ""},
            "invalid parameters of the request, ex: DatabaseInfo::findTable the table name is empty.",
        ),
        ({"database": 7}, "the parameter database takes a string"),
        ({"rebuild": "maybe"}, "the parameter rebuild takes a number"),
        ({"director_table": "t" * 60}, "MySQL table name limit of 64 characters has been exceeded for table"),
        ({"dry_run": "maybe"}, "the parameter dry_run takes a number"),
        ({"qserv_conn_id": "qserv_other"}, "the parameter qserv_conn_id cannot be set by requests to this service"),
        ({"version": "new"}, "The optional parameter version is not a number."),
        ({"version": 16}, "The requested version 16 of the API is not in the range supported by the service."),
        ({"version": VERSION + 1}, f"The requested version {VERSION + 1} of the API"),
    ],
)
def test_bad_requests_start_nothing(client: httpx.Client, change: dict[str, Any], error: str) -> None:
    found = ask(client, **change)
    assert found["success"] == 0
    assert error in found["error"]
    versions = {"min_version": 22, "max_version": VERSION} if "version" in change else {}
    assert found["error_ext"] == versions


def test_unknown_database_and_table(client: httpx.Client, catalog: CatalogFactory) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    unknown = "operation failed due to: CONFIG  _databaseInfo no such database 'none'."
    assert ask(client, version="55")["error"] == unknown
    found = ask(client, made.spec.database, director_table="Nothing", version=55)
    where = f"found in the database '{made.spec.database}'."
    assert found["error"] == f"operation failed due to: DatabaseInfo::findTable no such table 'Nothing' {where}"


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({}, "none of the authorization keys 'auth_key' or 'admin_auth_key' was found in the request"),
        ({"auth_key": "wrong"}, "authorization key 'auth_key' in the request doesn't match the one in server"),
        ({"auth_key": 5}, "authorization key 'auth_key' in the request doesn't match"),
        ({"auth_key": ""}, "authorization key 'auth_key' in the request doesn't match"),
        ({"auth_key": QSERV_KEY, "admin_auth_key": QSERV_KEY}, "administrator's authorization key 'admin_auth_key'"),
    ],
)
def test_wrong_keys(client: httpx.Client, keys: dict[str, Any], error: str) -> None:
    answer = client.post(BUILD, json={"database": "d", "director_table": "t", **keys})
    assert answer.status_code == 401
    assert answer.json()["success"] == 0
    assert error in answer.json()["error"]


def test_body_must_be_json(client: httpx.Client, deployment: Deployment) -> None:
    with deployment.client("builder") as known:
        answer = known.post(BUILD, content=b"[1]", headers={"Content-Type": "application/json"})
        assert answer.status_code == 200
        assert "A simple JSON object was expected" in answer.json()["error"]
    # Whoever has not said who he is hears of nothing else.
    assert client.post(BUILD, content=b"[1]", headers={"Content-Type": "application/json"}).status_code == 401
    body = f'{{"auth_key": "{QSERV_KEY}"}}'
    assert client.post(BUILD, content=body, headers={"Content-Type": "text/plain"}).status_code == 401


def test_version_service(client: httpx.Client, deployment: Deployment) -> None:
    found = client.request("GET", f"{META}?version=16", json={"auth_key": QSERV_KEY})
    assert found.status_code == 200
    about = found.json()
    assert (about["kind"], about["version"], about["success"]) == ("replication-controller", VERSION, 1)
    assert about.keys() >= FIELDS | {"id", "instance_id", "database_schema_version"}
    assert client.get(META).status_code == 401
    with deployment.client("viewer") as viewer:
        assert viewer.get(META).json()["warning"] == NO_VERSION


def test_equal_requests_join_and_leaving_stops_nothing(
    client: httpx.Client, deployment: Deployment, sandbox: Sandbox, catalog: CatalogFactory
) -> None:
    made = catalog(CatalogSpec(rows=150_000, chunks=60, seed=41), fresh=True)
    database = made.spec.database
    started = ask(client, database, rebuild=1, version=55, wait=0)
    assert started["success"] == 1
    run_id = started["run_id"]
    body: dict[str, Any] = {"database": database, "rebuild": 1, "version": 55}
    # A client that does not have the patience.
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=deployment.url, timeout=1.0) as hasty:
        ask(hasty, **body)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: ask(client, **body), range(3)))
    assert answers == [{"success": 1, "error": "", "error_ext": {}, "warning": ""}] * 3
    with deployment.client("admin") as admin:
        found = admin.get(f"{DAG}/dagRuns", params={"run_id_pattern": f"qserv__{database}"}).raise_for_status().json()
        assert [run["dag_run_id"] for run in found["dag_runs"]] == [run_id]
        assert {ti["try_number"] for ti in instances(admin, run_id).values()} == {1}
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())


def test_two_requests_at_the_same_instant_are_one_run(
    client: httpx.Client, deployment: Deployment, catalog: CatalogFactory
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=42), fresh=True)
    barrier = threading.Barrier(4)

    def send(_: int) -> str:
        barrier.wait()
        return str(ask(client, made.spec.database, wait=0, version=55)["run_id"])

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(send, range(4)))
    assert len(set(ids)) == 1, ids
    with deployment.client("admin") as admin:
        assert deployment.wait(admin, ids[0]) == "success"
    # The next one is a run of its own, which finds the index.
    assert "already exists" in ask(client, made.spec.database, version=55)["error"]


def test_connection_is_kept_alive(client: httpx.Client, catalog: CatalogFactory) -> None:
    """The first byte comes long before the answer, so that nobody between takes the connection for a dead one."""
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=43), fresh=True)
    body = {"database": made.spec.database, "director_table": "Object", "auth_key": QSERV_KEY}
    begun = time.monotonic()
    with client.stream("POST", BUILD, json=body) as answer:
        pieces = [(time.monotonic() - begun, piece) for piece in answer.iter_bytes()]
    assert pieces[0][1].isspace()
    assert pieces[0][0] < pieces[-1][0]
    assert b'"success": 1' in pieces[-1][1]
