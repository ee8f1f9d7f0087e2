"""The second demonstration: a collection moves to another embedding model under its readers, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql
from rich.markup import escape
from rich.table import Table

from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.embedding.requests import embed_texts
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.collection.collection_data import SOURCE_MODEL, WORD_MODELS, index_documents, model_connections, word_model
from sandbox.collection.texts import documents
from sandbox.demo.runner import Stage
from sandbox.servers.datadir import SandboxError
from sandbox.servers.postgres import Postgres

_DAG, _ROLLBACK = "reindex_collection", "rollback_collection"
_DATABASE, _ALIAS = "vectors", "packages"
_QUERIES = ("run tasks on a schedule", "parse dates and time zones", "talk to a database", "draw text in a terminal")


def show_collection(stage: Stage) -> None:
    """Index with one model, move to another, let a move fail, and take the switch back.

    :param stage: where it is shown
    :raises SandboxError: if something comes out otherwise than it should
    """
    with Postgres(stage.state / "postgres") as server:
        stage.connections = connections(server)
        demo = _Demo(server, stage)
        stage.say("a private PostgreSQL with pgvector is up, on a socket of its own")
        demo.index()
        before = demo.search()
        demo.move()
        after = demo.search()
        if before == after:
            raise SandboxError("another model should answer otherwise")
        demo.fail()
        demo.roll_back()
        if demo.search() != before:
            raise SandboxError("after the roll-back the answers should be those of the beginning")
        stage.say("as it should: the answers are those of the beginning", "green")
        stage.say("the server is being stopped")


def connections(server: Postgres) -> dict[str, str]:
    """Airflow's connections to the collections and the models.

    :param server: the server
    :returns: environment variable to JSON; it holds a password
    """
    found = {"collections_default": server.airflow_connection(_DATABASE), **model_connections()}
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in found.items()}


def make_collection(server: Postgres) -> tuple[int, int]:
    """Make the first collection anew.

    :param server: the server
    :returns: how many documents and vectors it has
    """
    server.drop_database(_DATABASE)
    server.create_database(_DATABASE)
    found = documents()
    store = PgVectorStore(connector(server.connection_uri(_DATABASE)), label=_DATABASE)
    try:
        return len(found), index_documents(store, open_model(word_model(SOURCE_MODEL), {}), found, _ALIAS)
    finally:
        store.close()


@dataclass
class _Demo:
    """What the parts of the demonstration share."""

    server: Postgres
    stage: Stage

    @cached_property
    def models(self) -> dict[str, EmbeddingModel]:
        """The models by id."""
        return {name: open_model(word_model(name), {}) for name in WORD_MODELS}

    def index(self) -> None:
        """Make the first collection."""
        texts, vectors = make_collection(self.server)
        self.stage.say(
            f"indexed the descriptions of {texts} installed Python distributions with model {SOURCE_MODEL}: "
            f"{vectors:,} vectors; readers follow the alias {_ALIAS}"
        )

    def search(self) -> dict[str, list[str]]:
        """Search as a reader does: by the alias, with the model that the registry names."""
        answers, model_id = {}, ""
        with closing(self.server.connect(_DATABASE)) as connection:
            for query in _QUERIES:
                model_id, answers[query] = self._answer(connection, query)
        table = Table("query", "nearest", title=f"alias {_ALIAS}, embedded with {model_id}", title_justify="left")
        for query, names in answers.items():
            table.add_row(escape(query), escape(", ".join(names)))
        self.stage.console.print(table)
        return answers

    def _answer(self, connection: psycopg.Connection[Any], query: str) -> tuple[str, list[str]]:
        row = connection.execute(
            "SELECT embedding_model_id FROM airflow_reindex.aliases WHERE alias = %s", (_ALIAS,)
        ).fetchone()
        model_id: str = row[0] if row else ""
        vector = embed_texts(self.models[model_id], [query], "query")[0]
        rows = connection.execute(
            sql.SQL(
                "SELECT object_id FROM (SELECT object_id, vector <=> %s::vector AS distance FROM {} ORDER BY 2 "
                "LIMIT 40) parts GROUP BY object_id ORDER BY min(distance), object_id LIMIT 5"
            ).format(sql.Identifier(f"dbop_{_ALIAS}")),
            (str(vector.tolist()),),
        ).fetchall()
        return model_id, [name for (name,) in rows]

    def move(self) -> None:
        """Move the collection, and switch its readers."""
        status, report = self._run("words_64", "words_256")
        if status or report["status"] != "done":
            raise SandboxError(f"the reindex failed: {report['detail']}\n{self.stage.tail()}")
        self._show(report)

    def fail(self) -> None:
        """Let a move fail: readers must stay."""
        self.stage.say("the failure: an item without a payload appears, then the collection is to move once more")
        with closing(self.server.connect(_DATABASE)) as connection:
            connection.execute("INSERT INTO dbo_words_256 (object_id) VALUES ('broken-item')")
        status, report = self._run("words_256", "words_128")
        self._show(report)
        failed = {item["object_id"]: item["failure_stage"] for item in report["failed_items"]}
        if not status or report["status"] != "failed" or failed != {"broken-item": "on_downloading"}:
            raise SandboxError(f"it should have failed for one item, not for {failed}\n{self.stage.tail()}")
        with closing(self.server.connect(_DATABASE)) as connection:
            rows = connection.execute("SELECT collection_id FROM airflow_reindex.aliases").fetchall()
        if rows != [("words_256",)]:
            raise SandboxError(f"readers should have stayed on words_256, and follow {rows}")
        self.stage.say("as it should: readers stay on words_256", "green")
        self.stage.say("with the item mended, clearing the failed tasks embeds what is missing, and switches")

    def roll_back(self) -> None:
        """Take the switch back."""
        self.stage.test_dag(_ROLLBACK, {"alias": _ALIAS})

    def _run(self, source: str, dest: str) -> tuple[int, dict[str, Any]]:
        conf = {
            "source_embedding_model_id": source,
            "dest_embedding_model_id": dest,
            "batch_size": 100,
            "deploy_as_blue": True,
            "alias": _ALIAS,
        }
        return self.stage.run_dag(_DAG, conf)

    def _show(self, report: Mapping[str, Any]) -> None:
        bad = report["status"] != "done"
        self.stage.console.print(
            f"\nstatus {report['status']}: {report['source']} -> {report['dest']}, {report['count']:,} of "
            f"{report['total']:,} items, {report['failed']} failed", style="red" if bad else "green",
        )  # fmt: skip
        if bad:
            self.stage.console.print(f"detail: {report['detail']}", markup=False, soft_wrap=True)
            errors = Table("collection", "window", "item", "message", title="error map", title_justify="left")
            for collection, windows in report["error_ext"].items():
                for window, items in windows.items():
                    for item, message in items.items():
                        errors.add_row(*map(escape, (collection, window, item, message)))
            self.stage.console.print(errors)
        else:
            self.stage.show_phases(report, "items")
            notes = report["notes"]
            self.stage.console.print(f"embedded {notes['embedded']:,}, recall@10 {notes['recall_at_10']}\n")
