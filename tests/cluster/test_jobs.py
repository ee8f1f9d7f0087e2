"""Both jobs on Celery workers: by the REST API as a user of the UI triggers them, on a schedule, one after another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.catalog.catalog import truth
from sandbox.collection.collection_data import SOURCE_MODEL, index_documents, word_model
from sandbox.collection.texts import documents
from tests.cluster.conftest import Cluster
from tests.support.build import assert_same, read_index, working_tables
from tests.system.api import DAG, instances, trigger

pytestmark = pytest.mark.cluster

MOVE_DAG = "/api/v2/dags/reindex_collection"
CATALOG_DAG = "/api/v2/dags/rebuild_catalog"
ITEMS = 60


@pytest.fixture(scope="module")
def packages(cluster: Cluster, vectors: str) -> Iterator[psycopg.Connection[Any]]:
    """A collection that readers follow."""
    postgres = cluster.deployment.postgres
    store = PgVectorStore(connector(postgres.connection_uri(vectors)), label="test")
    index_documents(store, open_model(word_model(SOURCE_MODEL), {}), documents(ITEMS), "packages")
    store.close()
    with postgres.connect(vectors) as connection:
        yield connection


def test_build_on_workers_that_share_no_folder(cluster: Cluster) -> None:
    made = cluster.make_catalog("sky", rows=200_000, chunks=80)
    with cluster.client("admin") as client:
        run_id = trigger(client, database="sky", director_table="Object", local=1, dry_run=False)
        assert cluster.wait(client, run_id) == "success"
        report = cluster.report(client, run_id)
        assert (report["status"], report["rows"]) == ("done", made.rows)
        assert "verify" in cluster.log(client, run_id, "publish"), "a worker's log is read from the object store"
        link = client.get(f"{DAG}/dagRuns/{run_id}/taskInstances/aggregate/links").raise_for_status().json()
        assert client.get(link["extra_links"]["Report"]).raise_for_status().json()["rows"] == made.rows
        shown = client.get(f"/reindex/run/build_director_index/{quote(run_id, safe='')}").raise_for_status().json()
        assert (shown["status"], shown["chunks"]["staged"], shown["failed"]) == ("done", report["total"], 0)
        assert {phase["state"] for phase in shown["phases"]} == {"done"}
    assert_same(read_index(cluster.deployment.qserv, "sky__Object"), truth(made.spec).index_rows())
    assert working_tables(cluster.deployment.qserv, "sky__Object") == []
    left = [key for key in cluster.staged() if run_id in key]
    assert not [key for key in left if key.endswith(".parquet")], left
    assert [key for key in left if key.endswith("report.json")]


def test_without_a_folder_of_its_own_local_0_says_so(cluster: Cluster) -> None:
    cluster.make_catalog("sky_small", rows=1_000, chunks=4)
    with cluster.client("admin") as client:
        run_id = trigger(client, database="sky_small", director_table="Object")
        assert cluster.wait(client, run_id) == "failed"
        assert "local=0 needs a folder that the tasks and the czar's MySQL server share" in str(
            cluster.report(client, run_id)["detail"]
        )
        assert instances(client, run_id)["plan", -1]["try_number"] == 1, "a retry cannot mend it"


def test_move_a_collection(cluster: Cluster, packages: psycopg.Connection[Any]) -> None:
    move = {"source_embedding_model_id": SOURCE_MODEL, "dest_embedding_model_id": "words_256", "batch_size": 10}
    with cluster.client("admin") as client:
        run_id = trigger(client, MOVE_DAG, **move, deploy_as_blue=True, alias="packages")
        assert cluster.wait(client, run_id, MOVE_DAG) == "success"
        report = cluster.report(client, run_id, MOVE_DAG)
    assert (report["status"], report["total"], report["failed"]) == ("done", ITEMS, 0)
    ((followed,),) = packages.execute("SELECT collection_id FROM airflow_reindex.aliases").fetchall()
    assert followed == "words_256"


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("dag_id", ["nightly_sky", "nightly_words"])
def test_on_a_schedule(cluster: Cluster, dag_id: str) -> None:
    if dag_id == "nightly_sky":
        cluster.make_catalog("sky_nightly", rows=2_000, chunks=10)
    path = f"/api/v2/dags/{dag_id}"
    with cluster.client("admin") as client:
        client.patch(path, json={"is_paused": False}).raise_for_status()
        runs = f"{path}/dagRuns?run_type=scheduled&order_by=run_after"
        cluster.poll(lambda user: user.get(runs).raise_for_status().json()["total_entries"] > 0)
        client.patch(path, json={"is_paused": True}).raise_for_status()
        run_id = client.get(runs).raise_for_status().json()["dag_runs"][0]["dag_run_id"]
        # A paused DAG's run goes on only when it is not.
        client.patch(path, json={"is_paused": False}).raise_for_status()
        assert cluster.wait(client, run_id, path) == "success"
        client.patch(path, json={"is_paused": True}).raise_for_status()
        assert cluster.report(client, run_id, path)["status"] == "done"


@pytest.mark.usefixtures("packages")
def test_a_whole_catalog_one_after_the_other(cluster: Cluster) -> None:
    made = cluster.make_catalog("sky_whole", rows=3_000, chunks=10)
    conf = {
        "database": "sky_whole",
        "build": {"local": 1},
        "collections": [{"source_embedding_model_id": SOURCE_MODEL, "dest_embedding_model_id": "words_128"}],
    }
    with cluster.client("admin") as client:
        run_id = trigger(client, CATALOG_DAG, **conf)
        assert cluster.wait(client, run_id, CATALOG_DAG, seconds=240) == "success"
        summary = cluster.report(client, run_id, CATALOG_DAG, "summary")
        assert [(one["conf"]["director_table"], one["state"]) for one in summary["tables"]] == [("Object", "success")]
        assert [one["state"] for one in summary["collections"]] == ["success"]
        build = cluster.report(client, summary["tables"][0]["run_id"])
        move = cluster.report(client, summary["collections"][0]["run_id"], MOVE_DAG)
    assert (build["rows"], move["total"]) == (made.rows, ITEMS)


def test_a_table_that_fails_is_named_and_the_others_are_built(cluster: Cluster) -> None:
    made = cluster.make_catalog("sky_partly", rows=3_000, chunks=10)
    conf = {"database": "sky_partly", "director_tables": ["Absent", "Object"], "build": {"local": 1}}
    with cluster.client("admin") as client:
        run_id = trigger(client, CATALOG_DAG, **conf)
        assert cluster.wait(client, run_id, CATALOG_DAG, seconds=240) == "failed"
        summary = cluster.report(client, run_id, CATALOG_DAG, "summary")
        assert {one["conf"]["director_table"]: one["state"] for one in summary["tables"]} == {
            "Absent": "failed",
            "Object": "success",
        }
        assert "sky_partly.Absent: failed" in cluster.log(client, run_id, "summary", CATALOG_DAG)
    assert_same(read_index(cluster.deployment.qserv, "sky_partly__Object"), truth(made.spec).index_rows())


def test_runs_share_the_workers(cluster: Cluster) -> None:
    tables = ("sky_one", "sky_two")
    for database in tables:
        cluster.make_catalog(database, rows=40_000, chunks=40)
    with cluster.client("admin") as client:
        runs = [
            trigger(client, database=database, director_table="Object", local=1, max_rows_per_second=10_000)
            for database in tables
        ]
        assert [cluster.wait(client, run_id, seconds=240) for run_id in runs] == ["success"] * 2
        spans = []
        for run_id in runs:
            work = [ti for key, ti in instances(client, run_id).items() if key[0] in ("extract", "load")]
            spans.append((min(ti["start_date"] for ti in work), max(ti["end_date"] for ti in work)))
    (first_start, first_end), (second_start, second_end) = spans
    assert second_start < first_end, "the second waited until the first had ended"
    assert first_start < second_end


def test_the_command_line_uses_the_deployments_connections(cluster: Cluster) -> None:
    done = cluster.deployment.call("doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    assert all(one["condition"] != "orphaned" for one in json.loads(done.stdout)), done.stdout
    absent = cluster.deployment.call("doctor", "--qserv", "qserv_absent")
    assert absent.returncode == 2
    assert absent.stderr.strip().endswith("error: there is no Airflow connection 'qserv_absent'.")
