"""How many failures a run allows: it stops early, refuses to switch, and can go on when the items are mended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, rows_of, texts


def source_with(admin: Admin, total: int, bad: Iterable[int]) -> list[str]:
    """A source some of whose items have no payload; their ids."""
    rows: dict[str, Any] = texts(total)
    keys = [list(rows)[place] for place in bad]
    make_source(admin, {**rows, **dict.fromkeys(keys)})
    return keys


def mend(admin: Admin, keys: list[str]) -> None:
    payload = json.dumps({"text": "mended"})
    admin.execute("UPDATE dbo_old_model SET payload = %s WHERE object_id = ANY(%s)", (payload, keys))


def go(run: Reindex) -> dict[str, Any]:
    """As Airflow does it: all windows are tried, what follows only when they succeeded."""
    run.plan()
    return go_on(run)


def go_on(run: Reindex) -> dict[str, Any]:
    failed = False
    for window in run.plan_made.windows:
        try:
            run.window(window.number)
        except DataError:
            failed = True
    last = ["verify", "switch"] if run.request.deploy_as_blue else ["verify"]
    for name in last:
        run.task_states[name] = "upstream_failed"
    if not failed:
        try:
            run.verify()
            if run.request.deploy_as_blue:
                run.switch()
        except DataError:
            pass
    return run.report()


@pytest.mark.parametrize(
    ("max_failed", "total", "bad", "status"),
    [
        (-1, 5, 5, "done"),
        (0, 5, 0, "done"),
        (0, 5, 1, "failed"),
        (3, 8, 2, "done"),
        (3, 8, 3, "done"),
        (3, 8, 4, "failed"),
        (0.1, 5, 0, "done"),
        (0.1, 5, 1, "failed"),
        (0.5, 1, 1, "failed"),
        (0.5, 2, 1, "done"),
        (0.29, 100, 29, "done"),
        (0.29, 100, 30, "failed"),
    ],
)
def test_limit(admin: Admin, reindex: Factory, max_failed: float, total: int, bad: int, status: str) -> None:
    keys = source_with(admin, total, range(bad))
    run = reindex(max_failed=max_failed, batch_size=200)
    report = go(run)
    assert (report["status"], report["total"], report["failed"]) == (status, total, bad), report["detail"]
    assert run.failed().keys() == set(keys)
    if status == "failed":
        assert f"{bad} of {total} items failed, more than max_failed={max_failed} allows" in report["detail"]
        assert report["rows"] == 0, "nothing that could be used"


def test_windows_that_have_not_started_fail_at_once(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    source_with(admin, 40, [1, 2, 12])
    run = reindex(max_failed=2, batch_size=10)
    report = go(run)
    assert run.task_states == {
        "plan": "success", "reindex_0": "success", "reindex_1": "success", "reindex_2": "failed", "reindex_3": "failed",
        "verify": "upstream_failed",
    }  # fmt: skip
    assert report["status"] == "failed"
    assert "reindex[2]: not started: 3 of 40 items failed, more than max_failed=2 allows" in report["detail"]
    assert "(and 1 more reindex tasks failed)" in report["detail"]
    assert (report["count"], report["failed"]) == (17, 23), "the windows that did not start, too"
    embedded = run.embedded()
    assert "text number 19" in embedded
    assert not {f"text number {n}" for n in range(20, 40)} & embedded.keys()
    not_started = {item["failure_stage"] for item in report["failed_items"] if item["object_id"] >= "o000020"}
    assert not_started == {"other"}


def test_failures_of_the_last_window_alone(admin: Admin, reindex: Factory) -> None:
    keys = source_with(admin, 35, [32, 33, 34])
    run = reindex(max_failed=2, batch_size=16)
    report = go(run)
    # All windows have run, so the verification has to say it.
    assert run.task_states["reindex_2"] == "success"
    assert run.task_states["verify"] == "failed"
    assert (report["status"], report["count"], set(run.failed())) == ("failed", 32, set(keys))
    assert report["detail"].startswith("verify: 3 of 35 items failed, more than max_failed=2 allows")


def test_failures_that_only_the_verification_meets(admin: Admin, reindex: Factory) -> None:
    source_with(admin, 20, [])
    run = reindex(max_failed=0)
    run.plan()
    run.windows()
    admin.execute("UPDATE dbo_old_model SET payload = NULL WHERE object_id IN ('o000003', 'o000017')")
    with pytest.raises(DataError, match="2 of 20 items failed, more than max_failed=0 allows"):
        run.verify()
    report = run.report()
    assert (report["status"], report["count"]) == ("failed", 18)
    assert run.failed() == {"o000003": "on_downloading", "o000017": "on_downloading"}


@pytest.mark.parametrize("cleared", ["windows", "plan"])
def test_a_run_goes_on_when_its_items_are_mended(admin: Admin, reindex: Factory, cleared: str) -> None:
    """As the message says: mend them, clear the tasks. The run's own old failures must not stop it again."""
    keys = source_with(admin, 20, [1, 2])
    run = reindex(max_failed=0, batch_size=5)
    report = go(run)
    assert report["status"] == "failed"
    assert "mend them" in report["detail"]
    assert "tasks 'reindex'" in report["detail"]
    mend(admin, keys)
    report = go(run) if cleared == "plan" else go_on(run)
    assert (report["status"], report["count"], report["failed"]) == ("done", 20, 0), report["detail"]
    assert rows_of(admin, NEW) == rows_of(admin, OLD)


def test_a_cleared_run_whose_items_are_still_bad_fails_again(admin: Admin, reindex: Factory) -> None:
    keys = source_with(admin, 20, [1, 2])
    run = reindex(max_failed=1, batch_size=5)
    go(run)
    report = go_on(run)
    assert (report["status"], report["count"], set(run.failed())) == ("failed", 18, set(keys))
    report = go(run)
    assert (report["status"], report["count"]) == ("failed", 3), "a new plan stops early again"


def test_no_switch_with_a_failure_unless_it_is_allowed(admin: Admin, reindex: Factory) -> None:
    keys = source_with(admin, 20, [4])
    run = reindex(deploy_as_blue=True, alias="products")
    report = go(run)
    assert (run.task_states["verify"], run.task_states["switch"]) == ("success", "failed")
    assert (report["status"], report["count"], report["failed"]) == ("failed", 19, 1)
    assert report["detail"].startswith("switch: 1 of 20 items failed, and max_failed=-1 allows no switch with that")
    assert run.store().pointer("products") is None
    assert run.hooked == []
    second = reindex("second", deploy_as_blue=True, alias="products", max_failed=1, force_takeover=True)
    report = go(second)
    assert (report["status"], report["count"], report["failed"]) == ("done", 19, 1), report["detail"]
    assert second.failed().keys() == set(keys)
    assert report["notes"]["switch"]["failed"] == 1
    assert admin.execute("SELECT count(*) FROM dbo_products").fetchone() == (19,)


def test_a_switch_after_mending(admin: Admin, reindex: Factory) -> None:
    keys = source_with(admin, 20, [4])
    run = reindex(deploy_as_blue=True, alias="products")
    assert go(run)["status"] == "failed"
    mend(admin, keys)
    report = go_on(run)
    assert (report["status"], report["count"], report["failed"]) == ("done", 20, 0), report["detail"]
    assert run.failed() == {}
    assert admin.execute("SELECT count(*) FROM dbo_products").fetchone() == (20,)


def test_failures_that_only_the_switch_meets(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, texts(20))
    run = reindex(deploy_as_blue=True, alias="products", max_failed=0).to_switch()
    admin.execute("UPDATE dbo_old_model SET payload = '{\"text\": \"refuse\"}' WHERE object_id = 'o000007'")
    server.faults.append(Fault(contains="refuse", status=400))
    with pytest.raises(DataError, match="1 of 20 items failed, and max_failed=0 allows no switch"):
        run.switch()
    report = run.report()
    assert (report["status"], report["count"], run.failed()) == ("failed", 19, {"o000007": "on_inference"})
    assert run.store().pointer("products") is None
