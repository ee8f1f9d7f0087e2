"""What whole runs tell the deployment's metrics and OpenLineage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.utils.state import TaskInstanceState

from airflow_reindex.hooks import staging
from airflow_reindex.operators.director import PublishOperator
from sandbox.catalog.catalog import CatalogSpec
from sandbox.fixtures import CatalogFactory
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.meter import Meter, metered
from tests.support.reindex import NEW, OLD, make_source, texts
from tests.system.conftest import Run

Trigger = Callable[..., Run]
DIRECTOR = {"job": "build_director_index", "dag_id": "build_director_index"}
COLLECTION = {"job": "reindex_collection", "dag_id": "reindex_collection"}


@pytest.fixture
def meter() -> Iterator[Meter]:
    """Where Airflow sends its metrics."""
    with metered() as meter:
        yield meter


def task_of(run: Run, task_id: str) -> tuple[Any, Any]:
    return DagBag().dags[run.dag_run.dag_id].get_task(task_id), run.dag_run.get_task_instance(task_id)


def extracted_by_hand(run: Run, task_id: str) -> Any:
    """The lineage of a task as its operator gives it."""
    task, ti = task_of(run, task_id)
    return task.get_openlineage_facets_on_complete(ti)


def extracted(run: Run, task_id: str) -> OperatorLineage[Any, Any]:
    """The lineage of a task as OpenLineage's listener asks for it."""
    task, ti = task_of(run, task_id)
    manager = ExtractorManager()  # type: ignore[no-untyped-call]
    return manager.extract_metadata(run.dag_run, task, TaskInstanceState.SUCCESS, ti)


def test_build(catalog: CatalogFactory, trigger: Trigger, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    made = catalog(CatalogSpec(rows=3_000, chunks=10, seed=31))
    before: list[OperatorLineage[Any, Any]] = []

    def look(self: PublishOperator, context: Any, _: Any = None) -> None:
        before.append(self.get_openlineage_facets_on_complete(context["ti"]))  # type: ignore[arg-type]

    monkeypatch.setattr(PublishOperator, "post_execute", look)
    run = trigger(database=made.spec.database, director_table="Object", rebuild=1)
    assert run.report["status"] == "done"
    assert meter.points("airflow.reindex.runs", "status", **DIRECTOR) == {("done",): 1}
    assert meter.points("airflow.reindex.rows", **DIRECTOR) == {(): made.rows}
    assert meter.points("airflow.reindex.task_rows", "phase", **DIRECTOR) == {
        ("extract",): made.rows,
        ("load",): made.rows,
    }
    assert meter.points("airflow.reindex.phase_seconds", "phase", **DIRECTOR) == {
        (phase["name"],): phase["seconds"] for phase in run.report["phases"]
    }
    assert meter.points("airflow.reindex.failures") == {}

    after = extracted(run, "publish")
    assert run.folder.read_json("plan.json") is None
    assert (after.inputs, after.outputs) == (before[0].inputs, before[0].outputs), "from the report as from the plan"
    (source,), (index,) = after.inputs, after.outputs
    assert (source.namespace, source.name) == ("qserv://qserv_default", f"{made.spec.database}.Object")
    assert (index.namespace, index.name) == ("qserv://qserv_default", f"qservMeta.{made.spec.database}__Object")
    assert index.outputFacets["outputStatistics"].rowCount == made.rows
    assert {field.name: field.type for field in index.facets["schema"].fields} == {
        "objectId": "BIGINT NOT NULL",
        "chunkId": "INT",
        "subChunkId": "INT UNSIGNED NOT NULL",
    }

    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    assert extracted_by_hand(run, "publish") is None, "without the provider there is nobody to tell"


def test_failed_build(catalog: CatalogFactory, trigger: Trigger, meter: Meter) -> None:
    made = catalog(CatalogSpec(rows=3_000, chunks=10, missing=2, missing_everywhere=True, seed=32))
    run = trigger(database=made.spec.database, director_table="Object", rebuild=1)
    assert (run.report["status"], run.report["failed"]) == ("failed", 2)
    assert meter.points("airflow.reindex.runs", "status", **DIRECTOR) == {("failed",): 1}
    assert meter.points("airflow.reindex.failures", "kind", **DIRECTOR) == {("missing_table",): 2}
    assert meter.points("airflow.reindex.rows", **DIRECTOR) == {(): 0}
    assert extracted(run, "publish").outputs[0].outputFacets == {}, "nothing was written"


def test_reindex(vectors: psycopg.Connection[Any], run_dag: Trigger, server: EmbeddingServer, meter: Meter) -> None:
    make_source(vectors, texts(20) | {"o000007": {"text": "poison"}, "o000013": {"other": 1}})
    server.faults.append(Fault("poison", status=400))
    both = {"source_embedding_model_id": OLD, "dest_embedding_model_id": NEW}
    run = run_dag("reindex_collection", **both, batch_size=8)
    assert (run.report["status"], run.report["failed"]) == ("done", 2)
    assert meter.points("airflow.reindex.runs", "status", **COLLECTION) == {("done",): 1}
    assert meter.points("airflow.reindex.items", **COLLECTION) == {(): 18}
    assert meter.points("airflow.reindex.task_rows", "phase", **COLLECTION) == {("reindex",): 20}
    assert meter.points("airflow.reindex.failures", "kind", **COLLECTION) == {
        ("on_inference",): 1,
        ("on_downloading",): 1,
    }

    told = extracted(run, "verify")
    (source,), (dest,) = told.inputs, told.outputs
    assert {source.namespace, dest.namespace} == {"collection://collections_default"}
    assert (source.name, dest.name) == (OLD, NEW)
    assert dest.outputFacets["outputStatistics"].rowCount == 18


def test_refused_run(vectors: psycopg.Connection[Any], run_dag: Trigger, meter: Meter) -> None:
    make_source(vectors, texts(3))
    run = run_dag("reindex_collection", source_embedding_model_id=OLD, dest_embedding_model_id=OLD)
    assert meter.points("airflow.reindex.runs", "status", **COLLECTION) == {("refused",): 1}
    assert extracted_by_hand(run, "verify") is None


def test_lineage_that_fails_fails_no_task(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(staging, "run_folder", mock.Mock(side_effect=OSError("the staging place is away")))
    assert PublishOperator(task_id="publish").get_openlineage_facets_on_complete(Run(None)) is None
    assert "no lineage of this task" in caplog.text
