"""The same ids in two schemas of one database: tenants that a search path tells apart have nothing in common."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reindex.core.failures import ConflictError
from airflow_reindex.vectors import orphans
from airflow_reindex.vectors.model.store import Pointer
from tests.support.collection_contents import assert_moved, finish, text_of
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, rows_of, texts

SWITCHED = {"deploy_as_blue": True, "alias": "products"}
ONE, OTHER = "tenant_one", "tenant_other"


def look_at(admin: Admin, schema: str) -> None:
    """Let names without a schema be a tenant's."""
    admin.execute(f"SET search_path = {schema}, public")


@pytest.fixture(autouse=True)
def tenants(admin: Admin) -> None:
    """Two tenants with the same ids of collections and items, and other texts."""
    admin.execute("CREATE EXTENSION IF NOT EXISTS vector")
    for schema in (ONE, OTHER):
        admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION reindex")
        look_at(admin, schema)
        make_source(admin, {key: {"text": f"{schema} {payload['text']}"} for key, payload in texts(30).items()})


@pytest.fixture
def tenant(reindex: Factory) -> Factory:
    """A factory of a tenant's runs."""

    def make(schema: str, run_id: str, **params: Any) -> Reindex:
        run = reindex(run_id, **params)
        run.search_path = f"{schema},public"
        return run

    return make


def test_each_gets_a_collection_and_an_alias(admin: Admin, tenant: Factory) -> None:
    for schema in (ONE, OTHER):
        run = tenant(schema, schema, **SWITCHED)
        report = run.run()
        assert (report["status"], report["count"], report["failed"]) == ("done", 30, 0)
        finish(run)
    for schema in (ONE, OTHER):
        look_at(admin, schema)
        assert count(admin, f"{schema}.dbo_{NEW}") == 30
        assert text_of(admin, NEW, "o000007") == f"{schema} text number 7"
        assert rows_of(admin, "products") == rows_of(admin, OLD)
        store = tenant(schema, "look").store()
        pointer = store.pointer("products")
        assert pointer is not None
        assert (pointer.collection_id, pointer.run_id) == (NEW, schema)
        assert store.followers(NEW) == ["products"]
        assert store.list_collections() == [NEW]
        assert store.open(NEW).states("o000028", None).keys() == {"o000029"}
        store.close()
    assert count(admin, "airflow_reindex.aliases") == 2


def count(admin: Admin, table: str) -> int:
    """How many rows a table has."""
    row = admin.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def test_both_at_the_same_time(admin: Admin, tenant: Factory) -> None:
    """Neither claim keeps the other tenant out, and giving up one leaves the other at work."""
    runs = [tenant(schema, schema) for schema in (ONE, OTHER)]
    for run in runs:
        run.plan()
    with pytest.raises(ConflictError, match="is being built by run 'tenant_one'"):
        tenant(ONE, "second").plan()
    store = runs[0].store()
    assert [(claim.dest, claim.owner.run_id) for claim in store.claims()] == [(NEW, ONE)]
    admin.execute("UPDATE airflow_reindex.claims SET alive_at = alive_at - interval '1 day'")
    assert [found.owner for found in orphans.find_orphans(store, "conn", 60) if found.kind == "claim"] == [
        str(runs[0].owner)
    ]
    orphans.abandon(store, NEW, 60)
    store.close()
    runs[1].windows()
    runs[1].verify()
    assert runs[1].report()["status"] == "done"
    look_at(admin, OTHER)
    assert_vectors_of(admin, OTHER)
    assert count(admin, "airflow_reindex.claims") == 1


def assert_vectors_of(admin: Admin, schema: str) -> None:
    """All rows of a tenant have moved."""
    look_at(admin, schema)
    assert rows_of(admin, NEW) == rows_of(admin, OLD)
    assert count(admin, f"{schema}.dbop_{NEW}") == 60


def test_one_tenants_readers_protect_nothing_of_the_other(admin: Admin, tenant: Factory) -> None:
    first = tenant(ONE, "first", **SWITCHED)
    first.run()
    finish(first)
    second = tenant(OTHER, "second")
    second.plan()
    assert not second.plan_made.preserve_newer
    second.windows()
    second.verify()
    assert second.report()["status"] == "done"
    store = second.store()
    assert store.pointer("products") is None
    store.drop(NEW)
    store.close()
    assert_vectors_of(admin, ONE)
    look_at(admin, OTHER)
    assert admin.execute(f"SELECT to_regclass('{OTHER}.dbo_{NEW}')").fetchone() == (None,)


def test_a_source_that_both_read(admin: Admin, tenant: Factory) -> None:
    """It lies in a schema that both see; a claim on it is a claim for both."""
    for schema in (ONE, OTHER):
        admin.execute(f"DROP TABLE {schema}.dbop_{OLD}, {schema}.dbo_{OLD}")
    look_at(admin, "public")
    make_source(admin, texts(20))
    one, other = tenant(ONE, "one", **SWITCHED), tenant(OTHER, "other")
    one.plan()
    other.plan()
    for run in (one, other):
        run.windows()
        run.verify()
    one.switch()
    assert (one.report()["status"], other.report()["status"]) == ("done", "done")
    for schema in (ONE, OTHER):
        assert count(admin, f"{schema}.dbo_{NEW}") == 20
    models = {"source_embedding_model_id": NEW, "dest_embedding_model_id": OLD}
    builder = tenant("public", "builder", **models, writes_go_to="dest")
    look_at(admin, "public")
    make_source(admin, texts(3), NEW)
    with pytest.raises(ConflictError, match="the destination 'old_model' is being read by run"):
        builder.plan()


def test_ids_as_long_as_they_may_be(admin: Admin, tenant: Factory) -> None:
    """A schema makes no id too long."""
    long = [("n" * 50 + end).ljust(57, "x") for end in "ab"]
    run = tenant(ONE, "long")
    for dest in long:
        run.server.models[dest] = 8
        run = tenant(ONE, dest, dest_embedding_model_id=dest)
        assert run.run()["status"] == "done"
        finish(run)
        assert count(admin, f"{ONE}.dbo_{dest}") == 30
    store = run.store()
    for dest in long:
        store.repoint(Pointer(alias=f"a{dest[1:]}", collection_id=dest, embedding_model_id=dest), None)
    assert store.list_collections() == long
    store.close()
    assert_moved_to(admin, long[1])


def assert_moved_to(admin: Admin, dest: str) -> None:
    """A tenant's collection has the rows of its source."""
    look_at(admin, ONE)
    assert rows_of(admin, dest) == rows_of(admin, OLD)


def test_the_schema_public_is_as_it_was(admin: Admin, reindex: Factory) -> None:
    look_at(admin, "public")
    make_source(admin, texts(20))
    assert reindex().run()["status"] == "done"
    assert_moved(admin)
