"""The DAG `build_director_index` from its params to its report."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from airflow.sdk.exceptions import ParamValidationError

from airflow_reindex.sandbox.catalog import CatalogSpec, truth
from airflow_reindex.sandbox.cluster import Sandbox
from airflow_reindex.sandbox.fixtures import CatalogFactory
from tests.harness import assert_same, read_index, working_tables
from tests.system.conftest import Run

SMALL = CatalogSpec(rows=20_000, chunks=30, replicas=2)
Trigger = Callable[..., Run]


def test_build_and_rebuild(sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(SMALL)
    database = made.spec.database
    run = trigger(database=database, director_table="Object")
    assert run.state == "success", run.tasks
    report = run.report
    assert report["status"] == "done"
    assert report["rows"] == made.rows
    assert report["count"] == report["total"] == len(made.placement) + 1, "the dummy chunk is one of them"
    assert report["error_ext"] == {}
    assert [phase["name"] for phase in report["phases"]] == ["plan", "extract", "split", "load", "publish"]
    assert run.folder.names() == ["report.json"], "staged rows are removed after success"
    assert working_tables(sandbox, f"{made.spec.database}__Object") == []
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())

    refused = trigger(database=database, director_table="Object")
    assert refused.state == "failed"
    assert refused.report["status"] == "refused"
    assert "already exists" in refused.report["detail"]
    assert refused.tasks["plan"] == "failed"
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())

    again = trigger(database=database, director_table="Object", rebuild="1", local=True, keep_previous=True)
    assert again.report["status"] == "done"
    assert "RENAME TABLE" in again.report["notes"]["roll_back"]
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())


def test_required_params(trigger: Trigger) -> None:
    with pytest.raises(ParamValidationError):
        trigger(database="sky")
