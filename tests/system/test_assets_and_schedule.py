"""A nightly build: bound params, a schedule, and an asset event for those who follow the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_reindex.dag_factory import director_index_dag
from sandbox.catalog.catalog import CatalogSpec
from sandbox.fixtures import CatalogFactory
from tests.system.conftest import Run


def events(index: str) -> list[dict[str, Any]]:
    """The extras of the events of an index's asset, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel

    with create_session() as session:
        statement = select(AssetEvent).join(AssetModel, AssetEvent.asset_id == AssetModel.id)
        found = session.scalars(statement.where(AssetModel.name == index).order_by(AssetEvent.id))
        return [dict(event.extra) for event in found]


def test_scheduled_build_emits_an_event(catalog: CatalogFactory, trigger: Callable[..., Run]) -> None:
    made = catalog(CatalogSpec(database="sky_nightly", rows=2_000, chunks=10))
    first = trigger("nightly_sky")
    assert first.report["status"] == "done", first.report
    assert trigger("nightly_sky").report["status"] == "done", "its rebuild=1 is bound"
    found = events("sky_nightly__Object")
    assert [event["rows"] for event in found] == [made.rows, made.rows]


def test_failed_build_emits_none(catalog: CatalogFactory, trigger: Callable[..., Run]) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, missing=1, seed=9))
    assert trigger(database=made.spec.database, director_table="Object").state == "failed"
    assert events(f"{made.spec.database}__Object") == []


def test_dags_of_the_test_folder(dags: DagBag) -> None:
    assert {"build_director_index", "nightly_sky", "after_nightly"} < set(dags.dags)
    nightly = dags.dags["nightly_sky"]
    assert nightly.params["database"] == "sky_nightly"
    assert str(nightly.schedule) == "@daily"


def test_unknown_param_is_named() -> None:
    with pytest.raises(ValueError, match="unknown params: databse"):
        director_index_dag("typo", bind={"databse": "sky"})
