"""The DAGs beside a build: the audit of an index, the throttle, and runs that are kept for the next build."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, count_reads, read_index, run_sql
from tests.system.conftest import Run

SMALL = CatalogSpec(rows=4_000, chunks=12, seed=31)
Trigger = Callable[..., Run]


def test_an_audit_is_green_until_the_index_is_damaged(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger
) -> None:
    made = catalog(SMALL)
    names = {"database": made.spec.database, "director_table": "Object"}
    refused = trigger("audit_director_index", **names)
    assert refused.report["status"] == "refused"
    assert "there is no index" in refused.report["detail"]
    assert trigger(**names).state == "success"
    good = trigger("audit_director_index", **names)
    assert good.state == "success", good.tasks
    assert good.report["status"] == "done"
    assert good.report["kind"] == "audit_director_index"
    assert good.report["rows"] == made.rows
    assert good.folder.names() == ["report.json"]
    run_sql(sandbox.czar, f"DELETE FROM qservMeta.`{made.spec.database}__Object` ORDER BY objectId LIMIT 3")
    bad = trigger("audit_director_index", **names)
    assert (bad.state, bad.report["status"]) == ("failed", "failed")
    assert bad.report["notes"]["differences"] == {"missing": 3, "surplus": 0, "wrong": 0}
    assert bad.report["failed"] == sum(len(chunks) for chunks in bad.report["error_ext"]["Object"].values())


def test_a_throttle_without_a_build_says_so(catalog: CatalogFactory, trigger: Trigger) -> None:
    made = catalog(SMALL)
    run = trigger("throttle_director_index", database=made.spec.database, director_table="Object")
    assert run.state == "failed"


def test_runs_that_are_kept_serve_the_next_build(
    sandbox: Sandbox, catalog: CatalogFactory, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__REINDEX__KEEP_RUNS", "True")
    made = catalog(CatalogSpec(rows=4_000, chunks=12, seed=32))
    for server in sandbox.workers.values():
        # A change within the last two seconds cannot be told from the next one.
        run_sql(server, "DO SLEEP(2.1)")
    names = {"database": made.spec.database, "director_table": "Object", "rebuild": 1}
    first = trigger(**names)
    assert first.state == "success", first.tasks
    assert first.folder.names() == ["report.json", "view.json"]
    chunk = min(made.placement)
    (worker,) = made.placement[chunk]
    run_sql(sandbox.workers[worker], f"UPDATE `{made.spec.database}`.`Object_{chunk}` SET flags = flags + 1")
    reads = count_reads(monkeypatch)
    second = trigger(**names)
    assert second.state == "success", second.tasks
    assert reads == [chunk]
    assert second.report["notes"]["adopted_chunks"] == len(made.placement)
    assert_same(read_index(sandbox, f"{made.spec.database}__Object"), truth(made.spec).index_rows())
