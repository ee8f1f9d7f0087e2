"""Tables of an earlier version, which knew no schemas: claims, aliases, notes and marks stay what they were."""

from __future__ import annotations

import pytest
from psycopg import sql

from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from airflow_reindex.vectors.stores.pgvector.schema import Names
from sandbox.servers.postgres import Postgres
from tests.vectors.contract.samples import claim, take
from tests.vectors.pgvector.helpers import Admin, embedded_all, info, make_source

#: As version 0.1 made them.
OLD = """
CREATE SCHEMA airflow_reindex;
CREATE TABLE airflow_reindex.collections (collection_id text PRIMARY KEY, embedding_model_id text NOT NULL,
  dimensions integer NOT NULL, metric text NOT NULL, m integer NOT NULL, ef_construction integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE airflow_reindex.claims (dest text PRIMARY KEY, source text NOT NULL, token text NOT NULL UNIQUE,
  deployment text NOT NULL, dag_id text NOT NULL, run_id text NOT NULL, host text NOT NULL, folder text NOT NULL,
  alive_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE airflow_reindex.aliases (alias text PRIMARY KEY, collection_id text NOT NULL,
  embedding_model_id text NOT NULL, previous_collection_id text NOT NULL, previous_model_id text NOT NULL,
  run_id text NOT NULL, hooked boolean NOT NULL, switched_at timestamptz NOT NULL);
"""
MARKS = """
CREATE TABLE airflow_reindex.{} (object_id varchar(128) PRIMARY KEY, version bytea NOT NULL, recipe bytea NOT NULL,
  content text NOT NULL, stage text NOT NULL, detail text NOT NULL, run text NOT NULL)
"""
NOTED = ("embedding_model_id", "dimensions", "metric", "m", "ef_construction")


def store_in(postgres: Postgres, database: str, schema: str) -> PgVectorStore:
    """A store whose ids mean tables in a schema."""
    path = f"-c search_path={schema},public"
    return PgVectorStore(connector(postgres.connection_uri(database), options=path), label=schema)


def make_old(admin: Admin, *schemas: str) -> None:
    """Take the schemas out of what a store has made, as if the earlier version had made it."""
    admin.execute("ALTER SCHEMA airflow_reindex RENAME TO made")
    admin.execute(OLD)
    for table, columns in (
        ("collections", ("collection_id", *NOTED)),
        ("claims", ("dest", "source", "token", "deployment", "dag_id", "run_id", "host", "folder", "alive_at")),
        (
            "aliases",
            ("alias", "collection_id", "embedding_model_id", "previous_collection_id", "previous_model_id", "run_id",
             "hooked", "switched_at"),
        ),
    ):  # fmt: skip
        admin.execute(
            sql.SQL("INSERT INTO {} ({c}) SELECT {c} FROM {}").format(
                sql.Identifier("airflow_reindex", table), sql.Identifier("made", table),
                c=sql.SQL(", ").join(map(sql.Identifier, columns)),
            )
        )  # fmt: skip
    for name, schema in admin.execute("SELECT collection_id, schema_name FROM made.collections").fetchall():
        admin.execute(sql.SQL(MARKS).format(sql.Identifier(f"marks_{name}")))
        if schema in schemas:
            admin.execute(
                sql.SQL("INSERT INTO {} SELECT * FROM {}").format(
                    sql.Identifier("airflow_reindex", f"marks_{name}"),
                    sql.Identifier("made", Names(name, schema).marks_name),
                )
            )
    admin.execute("DROP SCHEMA made CASCADE")


@pytest.mark.parametrize("schema", ["public", "tenant"])
def test_everything_is_kept(store: PgVectorStore, admin: Admin, postgres: Postgres, database: str, schema: str) -> None:
    admin.execute("CREATE SCHEMA IF NOT EXISTS tenant")
    admin.execute(f"SET search_path = {schema}, public")
    make_source(admin, "src", 3, index=False)
    before = store_in(postgres, database, schema)
    before.create(take(before, "dst"), info("dst", metric="euclid"))
    before.open("dst").put("token", embedded_all("abc"))
    before.repoint(Pointer(alias="live", collection_id="dst", embedding_model_id="model", run_id="r"), "token")
    seen = before.claims(), before.pointer("live"), before.list_collections(), before.find("dst")
    states = before.open("dst").states(None, None)
    before.close()
    make_old(admin, schema)

    after = store_in(postgres, database, schema)
    (held,) = after.claims()
    assert (held.dest, held.source, held.token, held.owner) == ("dst", "src", "token", seen[0][0].owner)
    assert (after.pointer("live"), after.list_collections(), after.find("dst")) == seen[1:]
    assert after.followers("dst") == ["live"]
    assert after.open("dst").states(None, None) == states
    after.prepare()
    assert after.touch(claim("dst"))
    # The claim fences, and a task of the earlier version's run goes on.
    after.open("dst").put("token", embedded_all("d"))
    after.repoint(Pointer(alias="live", collection_id="dst", embedding_model_id="new", run_id="s"), "token")
    pointer = after.pointer("live")
    assert pointer is not None
    assert (pointer.embedding_model_id, len(after.open("dst").states(None, None))) == ("new", 4)
    after.release(claim("dst"))
    assert after.claims() == []
    after.close()
    other = store_in(postgres, database, "public" if schema == "tenant" else "tenant")
    assert other.pointer("live") is None or schema == "public"
    other.close()
    admin.execute("DROP SCHEMA tenant CASCADE")


def test_marks_go_to_the_schema_whose_rows_they_are_of(
    store: PgVectorStore, admin: Admin, postgres: Postgres, database: str
) -> None:
    """Two schemas have the id, one of them was a victim of the confusion: its rows are nobody's."""
    for schema in ("one", "two"):
        admin.execute(f"CREATE SCHEMA {schema}")
        made = store_in(postgres, database, schema)
        made.create(take(made, "dst", schema), info("dst"))
        made.open("dst").put(schema, embedded_all("abc" if schema == "two" else "x"))
        made.release(claim("dst", schema))
        made.close()
    admin.execute("DELETE FROM airflow_reindex.collections WHERE schema_name = 'one'")
    make_old(admin, "two")
    one, two = (store_in(postgres, database, schema) for schema in ("one", "two"))
    assert {key: state.sync is not None for key, state in two.open("dst").states(None, None).items()} == {
        "a": True, "b": True, "c": True,
    }  # fmt: skip
    assert {key: state.sync for key, state in one.open("dst").states(None, None).items()} == {"x": None}
    assert (one.list_collections(), two.list_collections()) == ([], ["dst"])
    one.close()
    two.close()
    admin.execute("DROP SCHEMA one CASCADE; DROP SCHEMA two CASCADE")


def test_a_claim_on_a_destination_that_is_not_there_yet(
    store: PgVectorStore, admin: Admin, postgres: Postgres, database: str
) -> None:
    admin.execute("CREATE SCHEMA tenant")
    admin.execute("SET search_path = tenant, public")
    make_source(admin, "src", 3, index=False)
    make_old(admin)
    admin.execute("INSERT INTO airflow_reindex.claims VALUES ('dst', 'src', 't', 'd', 'dag', 'run', 'h', 'f', now())")
    tenant = store_in(postgres, database, "tenant")
    assert [(held.dest, held.source) for held in tenant.claims()] == [("dst", "src")]
    assert store.claims() == []
    tenant.close()
    admin.execute("DROP SCHEMA tenant CASCADE")
