"""`airflow-reindex doctor` and `repair`: what runs that died have left on real servers, and how it goes away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.cli.__main__ import main
from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.core.failures import ConflictError
from airflow_reindex.director.mysql.client import session
from airflow_reindex.director.orphans import abandon
from airflow_reindex.vectors.model.collection import CollectionInfo
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from sandbox.servers.postgres import Postgres
from tests.support.build import Build, Factory, assert_same, clean_czar, run_sql
from tests.support.claims import claims, finish_whole

Doctor = Callable[..., tuple[int, Any]]


@pytest.fixture(autouse=True)
def clean(sandbox: Sandbox) -> Iterator[None]:
    """Nothing is left of other tests, which may have left builds unfinished."""
    run_sql(sandbox.czar, "DROP DATABASE IF EXISTS airflow_reindex")
    with clean_czar(sandbox):
        yield


@pytest.fixture
def command(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Doctor:
    """Call the command line; its exit status and what it says."""
    for name, value in sandbox.connections().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", str(tmp_path / "staging"))

    def call(*arguments: str) -> tuple[int, Any]:
        status = main([*arguments, "--json"])
        shown = capsys.readouterr()
        return status, json.loads(shown.out) if shown.out else shown.err

    return call


@pytest.fixture
def died(catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> Build:
    """A build whose run fell silent after the load."""
    run = build(catalog(CatalogSpec(rows=2_000, chunks=10)).spec.database, rebuild=1)
    run.to_load()
    run.load_all()
    (name,) = claims(run)
    run_sql(sandbox.czar, f"UPDATE airflow_reindex.`{name}` SET alive_at = NOW(6) - INTERVAL 1 DAY")
    return run


def test_nothing_is_left_of_a_build_that_is_done(catalog: CatalogFactory, build: Factory, command: Doctor) -> None:
    finish_whole(build(catalog(CatalogSpec(rows=200, chunks=4)).spec.database, rebuild=1))
    assert command("doctor", "--qserv", "qserv_default") == (0, [])


def test_a_run_that_died_is_named_and_can_be_resumed(died: Build, command: Doctor) -> None:
    status, found = command("doctor", "--qserv", "qserv_default")
    assert status == 1
    (claim,) = found
    assert (claim["kind"], claim["condition"], claim["target"]) == ("claim", "abandoned", died.request.index_table)
    assert f"run '{died.run_id}'" in claim["owner"]
    assert claim["silent"] > 80_000
    assert f"--give-up {died.request.index_table} --yes" in claim["advice"]
    assert command("repair", "--qserv", "qserv_default", "--yes") == (0, {"removed": []}), "it could be resumed"
    died.publish()
    died.finish()
    assert_same(died.index(), truth(CatalogSpec(rows=2_000, chunks=10)).index_rows())


def test_a_run_at_work_is_left_alone(catalog: CatalogFactory, build: Factory, command: Doctor) -> None:
    run = build(catalog(CatalogSpec(rows=200, chunks=4)).spec.database, rebuild=1)
    run.plan()
    status, found = command("doctor", "--qserv", "qserv_default")
    assert (status, [one["condition"] for one in found]) == (0, ["at work"])
    status, error = command("repair", "--qserv", "qserv_default", "--give-up", run.request.index_table, "--yes")
    assert status == 2
    assert "whose build has died" in error
    assert claims(run)
    with session(run.servers.czar) as czar, pytest.raises(ConflictError, match="stop it first"):
        # As when something older of the same index is an orphan.
        abandon(czar, run.servers, run.request.index_table, Owner("t", "d", "r", "h", "f"), 300, dry_run=True)


def test_giving_up_removes_all_but_the_live_index(died: Build, command: Doctor, catalog: CatalogFactory) -> None:
    name = died.request.index_table
    before = died.working_tables()
    assert any(table.startswith("shadow_") for table in before)
    status, said = command("repair", "--qserv", "qserv_default", "--give-up", name)
    assert (status, sorted(said["would_remove"])) == (1, before)
    assert died.working_tables() == before, "without --yes nothing happens"
    status, said = command("repair", "--qserv", "qserv_default", "--give-up", name, "--yes")
    assert (status, sorted(said["removed"])) == (0, before)
    assert {table.split("_")[0] for table in said["removed"]} == {"claim", "shadow", "slices"}
    assert died.working_tables() == []
    assert command("doctor", "--qserv", "qserv_default") == (0, [])


def test_orphans_are_removed(died: Build, sandbox: Sandbox, command: Doctor) -> None:
    (name,) = claims(died)
    run_sql(sandbox.czar, f"DROP TABLE airflow_reindex.`{name}`")
    status, found = command("doctor", "--qserv", "qserv_default")
    assert status == 1
    assert {(one["kind"], one["condition"]) for one in found} == {
        ("shadow table", "orphaned"),
        ("markers of slices", "orphaned"),
    }
    assert {one["target"] for one in found} == {died.request.index_table}
    names = [one["name"] for one in found]
    assert command("repair", "--qserv", "qserv_default") == (1, {"would_remove": names})
    assert command("repair", "--qserv", "qserv_default", "--yes") == (0, {"removed": names})
    assert died.working_tables() == []


def test_foreign_tables_are_none_of_its_business(sandbox: Sandbox, command: Doctor, build: Factory) -> None:
    run_sql(sandbox.czar, "CREATE DATABASE IF NOT EXISTS airflow_reindex")
    run_sql(sandbox.czar, "CREATE TABLE airflow_reindex.shadow_of_mine (a INT)")
    try:
        assert command("doctor", "--qserv", "qserv_default") == (0, [])
        assert command("repair", "--qserv", "qserv_default", "--yes") == (0, {"removed": []})
        assert run_sql(sandbox.czar, "SELECT COUNT(*) FROM airflow_reindex.shadow_of_mine") == [(0,)]
    finally:
        run_sql(sandbox.czar, "DROP TABLE airflow_reindex.shadow_of_mine")


@pytest.fixture
def store(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> PgVectorStore:
    """A store with a collection that a dead run has begun."""
    postgres.create_database("doctor")
    monkeypatch.setenv("AIRFLOW_CONN_COLLECTIONS_DEFAULT", json.dumps(postgres.airflow_connection("doctor")))
    store = PgVectorStore(connector(postgres.connection_uri("doctor")), label="doctor")
    store.prepare()
    claim = Claim(dest="new", source="old", token="t0", owner=Owner("here", "reindex_collection", "dead", "h", "f"))
    store.take(claim, lambda _: None)
    info = CollectionInfo(collection_id="new", embedding_model_id="new", dimensions=4, metric="cosine")
    store.create("t0", info)
    return store


def test_half_built_collections(store: PgVectorStore, postgres: Postgres, command: Doctor) -> None:
    where = ("--collections", "collections_default")
    status, found = command("doctor", *where)
    assert (status, {one["condition"] for one in found}) == (0, {"at work"})
    with postgres.connect("doctor") as connection:
        connection.execute("UPDATE airflow_reindex.claims SET alive_at = now() - interval '1 day'")
    status, found = command("doctor", *where)
    assert status == 1
    assert {(one["kind"], one["target"], one["condition"]) for one in found} == {
        ("claim", "new", "abandoned"),
        ("half-built collection", "new", "abandoned"),
    }
    assert all("run 'dead'" in one["owner"] for one in found)
    status, said = command("repair", *where, "--give-up", "new")
    assert (status, len(said["would_remove"])) == (1, 2)
    assert store.find("new") is not None
    assert len(store.claims()) == 1
    assert command("repair", *where, "--give-up", "new", "--yes") == (0, {"removed": said["would_remove"]})
    assert store.find("new") is None
    assert store.claims() == []
    store.close()
    postgres.drop_database("doctor")


def test_staged_runs(died: Build, command: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = died.folder.root.rsplit("/", 2)[0]
    monkeypatch.setenv("AIRFLOW__REINDEX__STAGING_URL", staging)
    monkeypatch.setenv("AIRFLOW__REINDEX__CLAIM_TIMEOUT", "1")
    for path in Path(died.folder.root).rglob("*"):
        os.utime(path, (time.time() - 3_600,) * 2)
    _, found = command("doctor", "--qserv", "qserv_default")
    staged = [one for one in found if one["kind"] == "staged run"]
    assert [(one["owner"], one["condition"]) for one in staged] == [(died.run_id, "abandoned")]
    assert "clear the failed tasks" in staged[0]["advice"]


def test_without_json_it_is_a_table(died: Build, command: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--qserv", "qserv_default"]) == 1
    shown = capsys.readouterr().out
    assert "abandoned" in shown
    assert f"--give-up {died.request.index_table} --yes" in shown


def test_a_connection_that_is_not_there(command: Doctor) -> None:
    status, error = command("doctor", "--qserv", "qserv_absent")
    assert status == 2
    assert "there is no Airflow connection 'qserv_absent'" in error
