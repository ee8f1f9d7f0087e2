"""The DAG `build_director_index` from its params to its report."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import MySQLdb
import pytest
from airflow.sdk.exceptions import ParamValidationError

from airflow_reindex.director import steps
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, mark, read_index, run_sql, working_tables
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
    assert run.folder.names() == ["report.json", "view.json"], "staged rows are removed after success"
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
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())
    run_sql(sandbox.czar, again.report["notes"]["roll_back"])
    assert_same(read_index(sandbox, f"{database}__Object"), truth(made.spec).index_rows())
    assert working_tables(sandbox, f"{database}__Object") == [f"replaced_{mark(f'{database}__Object')}"]

    assert trigger(database=database, director_table="Object", rebuild=1).report["status"] == "done"
    assert working_tables(sandbox, f"{database}__Object") == []


def test_server_that_is_away_when_all_is_done(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(CatalogSpec(rows=3_000, chunks=10, seed=31))
    away = mock.Mock(side_effect=MySQLdb.OperationalError(2002, "Can't connect to server"))
    monkeypatch.setattr(steps, "finish_build", away)
    run = trigger(database=made.spec.database, director_table="Object")
    assert run.state == "success"
    assert run.report["status"] == "done", "the index is live, and the report says so"
    monkeypatch.undo()
    assert [name.split("_")[0] for name in working_tables(sandbox, f"{made.spec.database}__Object")] == ["done"]


def test_required_params(trigger: Trigger) -> None:
    with pytest.raises(ParamValidationError):
        trigger(database="sky")
