"""A reindex made of its step functions, as the tasks of a DAG run make it: a real database, a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from airflow_reindex.core.claims import Contender, Owner
from airflow_reindex.core.run_outcome import task_states
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import recorded
from airflow_reindex.vectors import steps
from airflow_reindex.vectors.account import read_failed
from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.embedding.bisect import PROBE
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings
from airflow_reindex.vectors.embedding.pipeline import EmbeddingPipeline
from airflow_reindex.vectors.embedding.probing import TEXTS, long_texts
from airflow_reindex.vectors.model.embedding_model import ModelSpec
from airflow_reindex.vectors.model.loader import Loader
from airflow_reindex.vectors.model.plan import ReindexPlan, read_plan
from airflow_reindex.vectors.model.request import ReindexRequest
from airflow_reindex.vectors.model.splitting import Splitter
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.planning.planning import make_plan
from airflow_reindex.vectors.report import STEPS, make_report
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from airflow_reindex.vectors.sync.context import ReindexContext
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres

Admin = psycopg.Connection[Any]

OLD, NEW = "old_model", "new_model"
DIMENSIONS = {OLD: 4, NEW: 8}
#: The most characters in a part.
PART = 200


def spec_of(model_id: str, server: EmbeddingServer, **changes: Any) -> ModelSpec:
    """A model that the server offers."""
    given: dict[str, Any] = {
        "backend": "openai",
        "name": model_id,
        "dimensions": DIMENSIONS.get(model_id, 8),
        "url": f"{server.url}/v1",
        "batch_size": 16,
        "timeout": 5.0,
    }
    return ModelSpec(**{**given, **changes}, model_id=model_id)


class Reindex:
    """
    One run of a reindex.

    :param database: that of the collections.
    :param server: offers both models.
    :param staging: where runs keep their folders.
    :param params: further params of the request.
    """

    def __init__(
        self,
        postgres: Postgres,
        database: str,
        server: EmbeddingServer,
        staging: Path,
        run_id: str = "run",
        **params: Any,
    ) -> None:
        self.postgres, self.database, self.server, self.run_id = postgres, database, server, run_id
        self.folder = Folder.at(str(staging / run_id))
        both = {"source_embedding_model_id": OLD, "dest_embedding_model_id": NEW}
        self.params = {**both, "batch_size": 16, **params}
        self.owner = Owner("tests", "reindex_collection", run_id, "localhost", self.folder.url)
        self.states: dict[tuple[str, str], str] = {}
        self.task_states: dict[str, str] = {}
        self.loader: Loader = PayloadLoader(PayloadSettings(fields=("text",)))
        self.specs: dict[str, ModelSpec] = {}
        self.listed: list[str] | None = None
        self.part = PART
        self.claim_timeout, self.least_recall = 300.0, 0.9
        self.search_path = ""
        self.hooked: list[Pointer] = []

    @property
    def request(self) -> ReindexRequest:
        """What was asked for."""
        return ReindexRequest.parse(self.params)

    @property
    def plan_made(self) -> ReindexPlan:
        """The plan in the run's folder."""
        return read_plan(self.folder)

    def spec(self, model_id: str) -> ModelSpec:
        """A model's description."""
        return self.specs.get(model_id) or spec_of(model_id, self.server)

    def store(self) -> PgVectorStore:
        """The store, with the account that has the documented grants only."""
        path = {"options": f"-c search_path={self.search_path}"} if self.search_path else {}
        uri = self.postgres.connection_uri(self.database)
        return PgVectorStore(connector(uri, **path), label="test", switch_seconds=5)

    @contextmanager
    def tools(self) -> Iterator[ReindexContext]:
        """Store, models, loader."""
        request = self.request
        source, dest = self.spec(request.source_embedding_model_id), self.spec(request.dest_embedding_model_id)
        store, model = self.store(), open_model(dest, {})
        try:
            pipeline = EmbeddingPipeline(model=model, loader=self.loader, splitter=Splitter(self.part))
            yield ReindexContext(
                store=store, source_spec=source, source_model=lambda: open_model(source, {}), pipeline=pipeline
            )
        finally:
            model.close()
            store.close()

    def plan(self) -> dict[str, Any]:
        """The task `plan`."""
        with recorded(self.folder, "plan") as record:
            request = self.request
            contender = Contender(
                owner=self.owner,
                state_of=lambda dag_id, run_id: self.states.get((dag_id, run_id), "running"),
                claim_timeout=self.claim_timeout,
                force=request.force_takeover,
            )
            with self.tools() as tools:
                plan, figures = make_plan(
                    tools, request, self.folder, contender, conn_id="collections_default", listed=self.listed
                )
            record.token, record.result = plan.token, {"dry_run": request.dry_run, **figures}
        self.task_states["plan"] = "success"
        return figures

    def window(self, number: int) -> None:
        """One mapped task `reindex`."""
        self._task(f"reindex_{number}", lambda tools: steps.reindex_window(
            tools, self.folder, self.owner, self.plan_made.token, number
        ))  # fmt: skip

    def windows(self) -> None:
        """All tasks `reindex`, in turn."""
        for window in self.plan_made.windows:
            self.window(window.number)

    def verify(self) -> None:
        """The task `verify`."""
        self._task("verify", lambda tools: steps.verify(
            tools, self.folder, self.owner, least_recall=self.least_recall
        ))  # fmt: skip

    def switch(self) -> None:
        """The task `switch`."""
        self._task("switch", lambda tools: steps.switch(
            tools, self.folder, self.owner, hook=self.hook, lock_seconds=2
        ))  # fmt: skip

    def to_switch(self) -> Reindex:
        """All tasks before the switch."""
        self.plan()
        self.windows()
        self.verify()
        return self

    def hook(self, pointer: Pointer) -> None:
        """What the deployment is told of a switch."""
        self.hooked.append(pointer)

    def _task(self, name: str, work: Callable[[ReindexContext], object]) -> None:
        self.task_states[name] = "failed"
        with self.tools() as tools:
            work(tools)
        self.task_states[name] = "success"

    def run(self) -> dict[str, Any]:
        """The whole reindex."""
        self.to_switch()
        if self.request.deploy_as_blue:
            self.switch()
        return self.report()

    def report(self) -> dict[str, Any]:
        """What the task `aggregate` says."""
        states = task_states(self.task_states, STEPS)
        report = make_report(self.folder, self.run_id, states, OLD, NEW).as_dict()
        assert report["count"] + report["failed"] == report["total"]
        return report

    def failed(self) -> dict[str, str]:
        """Stages by item, of the list beside the report."""
        items = list(read_failed(self.folder))
        assert len({item.object_id for item in items}) == len(items), "an item is listed twice"
        return {item.object_id: item.failure_stage for item in items}

    def embedded(self, model: str = NEW) -> dict[str, int]:
        """How often the server embedded which text; of those that a plan asks for, only the harmless one counts."""
        asked = {*TEXTS, *long_texts(self.part)} - {PROBE}
        with self.server.lock:
            counts: dict[str, int] = self.server.counts.embedded.get(model, {})
            return {text: count for text, count in counts.items() if text not in asked}


#: The fixture `reindex`.
Factory = Callable[..., Reindex]


def make_source(connection: Admin, rows: Mapping[str, Any], collection_id: str = OLD) -> None:
    """A collection as EmbeddingStudio makes it, with one part an object."""
    dimensions = DIMENSIONS.get(collection_id, 4)
    objects, parts = sql.Identifier(f"dbo_{collection_id}"), sql.Identifier(f"dbop_{collection_id}")
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute(
        sql.SQL(
            "CREATE TABLE {o} (object_id varchar(128) PRIMARY KEY, payload jsonb, storage_meta jsonb, "
            "original_id varchar(128), user_id varchar(128), session_id varchar(128)); "
            "CREATE TABLE {p} (part_id varchar(128) PRIMARY KEY, object_id varchar(128) REFERENCES {o}, "
            "vector vector({d}), is_average boolean, user_id varchar(128)); "
            "CREATE INDEX ON {p} (object_id); GRANT ALL ON {o}, {p} TO reindex; "
            "ALTER TABLE {o} OWNER TO reindex; ALTER TABLE {p} OWNER TO reindex"
        ).format(o=objects, p=parts, d=sql.Literal(dimensions))
    )
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("COPY {o} (object_id, payload, storage_meta) FROM STDIN").format(o=objects)) as copy,
    ):
        for key, payload in rows.items():
            copy.write_row((key, json.dumps(payload), json.dumps({"file": key})))


def texts(count: int) -> dict[str, dict[str, str]]:
    """Payloads of so many items, each with a text of its own."""
    return {f"o{number:06}": {"text": f"text number {number}"} for number in range(count)}


def rows_of(connection: Admin, collection_id: str) -> dict[str, tuple[Any, Any]]:
    """Payload and storage metadata of a collection's originals."""
    found = connection.execute(
        sql.SQL("SELECT object_id, payload, storage_meta FROM {} WHERE original_id IS NULL").format(
            sql.Identifier(f"dbo_{collection_id}")
        )
    ).fetchall()
    return {key: (payload, meta) for key, payload, meta in found}
