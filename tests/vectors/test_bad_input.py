"""Bad input is refused with a clear message before anything is written; a dry run writes nothing either."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg import sql

from airflow_reindex.core.failures import ConflictError, ReindexError, RequestError, TransientError
from airflow_reindex.core.task_records import PLAN
from airflow_reindex.vectors.model.store import Pointer
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.reindex import DIMENSIONS, NEW, OLD, Admin, Factory, Reindex, make_source, spec_of, texts

BLUE = {"deploy_as_blue": True, "alias": "products"}


def contents(admin: Admin) -> dict[str, Any]:
    """All that a database has: schemas, tables with their rows, views, indexes."""
    outside = "nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
    found = admin.execute(
        f"SELECT nspname, relname, relkind::text FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid "
        f"WHERE {outside} ORDER BY 1, 2".encode()
    ).fetchall()
    result: dict[str, Any] = {f"{schema}.{name} ({kind})": None for schema, name, kind in found}
    for schema, name, kind in found:
        if kind == "r":
            rows = admin.execute(sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(schema, name)))
            result[f"{schema}.{name} ({kind})"] = rows.fetchall()
    return result


def refuse(admin: Admin, run: Reindex, error: type[ReindexError], words: str) -> None:
    """The plan fails so, and leaves database and folder as they were."""
    before = contents(admin)
    with pytest.raises(error, match=words) as caught:
        run.plan()
    assert contents(admin) == before
    assert run.folder.read_json(PLAN) is None
    run.task_states["plan"] = "failed"
    report = run.report()
    assert report["status"] == ("refused" if issubclass(error, RequestError) else "failed")
    assert report["detail"] == str(caught.value)


@dataclass(frozen=True)
class Case:
    """
    Bad input.

    :param words: what the message must say.
    :param params: of the request.
    :param specs: changes of models' descriptions, by model.
    :param tables: a statement that prepares the database.
    :param error: what is raised.
    """

    words: str
    params: dict[str, Any] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: str = ""
    error: type[ReindexError] = RequestError


DEST = (
    "CREATE TABLE dbo_new_model (object_id varchar(128) PRIMARY KEY, payload jsonb, storage_meta jsonb, "
    "original_id varchar(128), user_id varchar(128), session_id varchar(128)); "
    "CREATE TABLE dbop_new_model (part_id varchar(128) PRIMARY KEY, object_id varchar(128), vector vector(8), "
    "is_average boolean, user_id varchar(128)); "
    "ALTER TABLE dbo_new_model OWNER TO reindex; ALTER TABLE dbop_new_model OWNER TO reindex;"
)
CASES = {
    "unknown source": Case(
        "there is no collection 'another' of model 'another' in test", {"source_embedding_model_id": "another"}
    ),
    "unknown source by its id": Case(
        "there is no collection 'elsewhere' of model 'old_model'", specs={OLD: {"collection_id": "elsewhere"}}
    ),
    "same model": Case("are the same embedding model, 'new_model'", {"source_embedding_model_id": NEW}),
    "same collection": Case("are the same collection, 'old_model'", specs={NEW: {"collection_id": OLD}}),
    "source of other dimensions": Case(
        "the source 'old_model' has vectors of 4 dimensions, but the connection .* says 5",
        specs={OLD: {"dimensions": 5}},
    ),
    "destination of other dimensions": Case(
        "the destination 'new_model' has vectors of 3 dimensions, but the connection of model 'new_model' says 8",
        tables=DEST.replace("vector(8)", "vector(3)"),
    ),
    "destination of another metric": Case(
        "the destination 'new_model' is indexed for the metric 'euclid', but .* says 'cosine'",
        tables=DEST + "CREATE INDEX ON dbop_new_model USING hnsw (vector vector_l2_ops)",
    ),
    "destination with foreign rows": Case(
        "the destination 'new_model' has rows that no run of this package wrote.*writes_go_to=dest",
        tables=DEST + "INSERT INTO dbo_new_model (object_id) VALUES ('mine')",
        error=ConflictError,
    ),
    "model of other dimensions": Case(
        "model 'new_model': the model returned 8 numbers instead of 7. Mend its connection's 'dimensions'",
        specs={NEW: {"dimensions": 7}},
    ),
    "model that the server lacks": Case("answered 404.*there is no model", specs={NEW: {"name": "nobody's"}}),
    "wrong path": Case("answered 404", specs={NEW: {"url": "{url}/v3"}}),
    "wrong key": Case("answered 401.*the key .* is missing or wrong", specs={NEW: {"secret": "not-the-key"}}),
    "unknown host": Case("its host is unknown", specs={NEW: {"url": "http://nobody.invalid/v1"}}),
    "nobody listens": Case("cannot be reached", specs={NEW: {"url": "{closed}/v1"}}, error=TransientError),
    "unknown backend": Case("asks for the backend 'none'", specs={NEW: {"backend": "none"}}),
    "alias is a table": Case("'dbo_old_model' is a collection's table", {**BLUE, "alias": OLD}),
    "alias is a foreign view": Case(
        "'dbo_products' is a view that was not made by this product",
        BLUE,
        tables="CREATE VIEW dbo_products AS SELECT 1",
    ),
    "alias too long": Case("the alias .* is too long", {**BLUE, "alias": "a" * 100}),
    "users' objects": Case(
        "the source has 1 personalised objects of users.*drop_user_objects=true",
        BLUE,
        tables="INSERT INTO dbo_old_model (object_id, original_id, user_id) VALUES ('copy', 'o000001', 'u')",
        error=ConflictError,
    ),
    "batch_size": Case("batch_size takes a whole number from 1, not 0", {"batch_size": 0}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_refused_before_anything_is_written(
    admin: Admin, reindex: Factory, server: EmbeddingServer, case: Case
) -> None:
    make_source(admin, texts(3))
    if case.tables:
        admin.execute(case.tables.encode())
    if "secret" in case.specs.get(NEW, {}):
        server.key = "the-key"
    run = reindex(**case.params)
    urls = {"{url}": server.url, "{closed}": f"http://127.0.0.1:{free_port()}"}
    for model, changes in case.specs.items():
        given = dict(changes)
        for place, url in urls.items():
            given["url"] = given.get("url", "{url}/v1").replace(place, url)
        run.specs[model] = spec_of(model, server, **given)
    refuse(admin, run, case.error, case.words)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("dry_run", [False, True])
def test_more_dimensions_than_the_store_can_index(
    admin: Admin, reindex: Factory, server: EmbeddingServer, dry_run: bool
) -> None:
    make_source(admin, texts(3))
    server.models[NEW] = 2001
    run = reindex(dry_run=dry_run)
    run.specs[NEW] = spec_of(NEW, server, dimensions=2001)
    refuse(admin, run, RequestError, "pgvector indexes vectors of 1 to 2000 dimensions, not 2001")


def test_a_key_is_never_told(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, texts(3))
    server.key = "the-key"
    run = reindex()
    run.specs[NEW] = spec_of(NEW, server, secret="not-the-key")
    # The server's answer quotes it.
    with pytest.raises(RequestError, match=r"wrong key: Bearer \*\*\*"):
        run.plan()
    assert "not-the-key" not in str(run.report())


def test_another_models_destination(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(3))
    reindex().run()
    run = reindex("second", dest_embedding_model_id="third", force_takeover=True)
    run.server.models["third"] = DIMENSIONS[NEW]
    run.specs["third"] = spec_of("third", run.server, collection_id=NEW)
    refuse(admin, run, RequestError, "the destination 'new_model' holds vectors of model 'new_model', not of 'third'")


def test_another_models_source(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(3))
    reindex().run()
    run = reindex("second", source_embedding_model_id="third", dest_embedding_model_id="fourth", force_takeover=True)
    run.server.models["fourth"] = 8
    run.specs["third"] = spec_of("third", run.server, collection_id=NEW)
    refuse(admin, run, RequestError, "the source 'new_model' holds vectors of model 'new_model', not of 'third'")


def test_an_alias_that_follows_a_third_collection(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(3))
    first = reindex(**BLUE)
    first.run()
    pointer = first.store().pointer("products")
    assert pointer is not None
    make_source(admin, texts(3), "third")
    first.store().repoint(Pointer(alias="products", collection_id="third", embedding_model_id="third"), None)
    run = reindex("second", **BLUE, force_takeover=True)
    refuse(admin, run, ConflictError, "alias 'products' follows the collection 'third', which is neither")


def test_a_destination_that_another_run_builds(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(3))
    reindex().plan()
    refuse(admin, reindex("second"), ConflictError, r"'new_model' is being built by run 'run' .*force_takeover=true")


@pytest.mark.parametrize("fault", [{"status": 400}, {"vector": "nan"}, {"vector": "zero"}])
def test_a_model_that_is_broken(admin: Admin, reindex: Factory, server: EmbeddingServer, fault: dict[str, Any]) -> None:
    make_source(admin, texts(3))
    server.faults.append(Fault(**fault))
    refuse(admin, reindex(), RequestError, "model 'new_model'")


def test_users_objects_do_not_matter_without_a_switch(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(3))
    admin.execute("INSERT INTO dbo_old_model (object_id, original_id) VALUES ('copy', 'o000001')")
    assert reindex().run()["status"] == "done"
    report = reindex("second", **BLUE, drop_user_objects=True, force_takeover=True).run()
    assert report["status"] == "done", report["detail"]


def test_foreign_rows_are_kept_where_writers_write(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(3))
    admin.execute(DEST.encode())
    admin.execute("INSERT INTO dbo_new_model (object_id, payload) VALUES ('mine', '{}'), ('o000001', '{\"mine\": 1}')")
    report = reindex(writes_go_to="dest").run()
    assert report["status"] == "done", report["detail"]
    rows = dict(admin.execute("SELECT object_id, payload FROM dbo_new_model").fetchall())
    assert rows == {**texts(3), "mine": {}, "o000001": {"mine": 1}}


def figures(run: Reindex) -> dict[str, int]:
    return {name: run.plan()[name] for name in ("items", "to_embed", "unchanged", "to_delete")}


def test_a_dry_run_writes_nothing(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(30))
    run, before = reindex(dry_run=True, **BLUE), contents(admin)
    assert figures(run) == {"items": 30, "to_embed": 30, "unchanged": 0, "to_delete": 0}
    assert contents(admin) == before
    assert run.folder.read_json(PLAN) is None
    report = run.report()
    assert (report["status"], report["total"], report["notes"]["items"]) == ("pending", 0, 30)
    assert report["detail"] == "dry run: the checks passed, nothing was changed"


def test_a_dry_run_counts_what_is_to_do(admin: Admin, reindex: Factory) -> None:
    make_source(admin, {**texts(30), "o000009": None})
    reindex().run()
    change = "UPDATE dbo_old_model SET payload = '{\"text\": \"changed\"}' WHERE object_id IN ('o000001', 'o000002')"
    admin.execute(change.encode())
    admin.execute("INSERT INTO dbo_old_model (object_id, payload) VALUES ('a', '{\"text\": \"new\"}')")
    # The last one is beyond the source's last key.
    admin.execute("DELETE FROM dbo_old_model WHERE object_id IN ('o000005', 'o000029')")
    before = contents(admin)
    run = reindex("second", dry_run=True, force_takeover=True)
    plan = run.plan()
    # Two have changed, one is new, and the one that has failed is tried again.
    assert {name: plan[name] for name in ("items", "to_embed", "unchanged", "to_delete")} == {
        "items": 29, "to_embed": 4, "unchanged": 25, "to_delete": 2,
    }  # fmt: skip
    assert (plan["parts"], plan["sample_failed"], plan["cost"]) == (3, 1, None)
    assert contents(admin) == before
    real = reindex("third", force_takeover=True).run()
    assert (real["notes"]["embedded"], real["notes"]["deleted"], real["failed"]) == (3, 2, 1), "as it was foretold"


def test_a_dry_run_of_an_empty_collection(admin: Admin, reindex: Factory) -> None:
    make_source(admin, {})
    assert figures(reindex(dry_run=True)) == {"items": 0, "to_embed": 0, "unchanged": 0, "to_delete": 0}


def test_a_dry_run_tells_tokens_and_cost(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, {f"o{n:03}": {"text": "word " * 80} for n in range(300)})
    run = reindex(dry_run=True)
    run.specs[NEW] = spec_of(NEW, server, price=2.0)
    plan = run.plan()
    assert (plan["parts"], plan["tokens"]) == (600, 300 * 400 // 4)
    assert plan["cost"] == pytest.approx(30_000 / 1e6 * 2)
    assert 0 < sum(run.embedded().values()) < 300, "a sample only"
