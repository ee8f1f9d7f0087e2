"""The state of a step, from those of its tasks."""

from __future__ import annotations

import pytest

from airflow_reindex.monitoring.phases import state_of


@pytest.mark.parametrize(
    ("states", "live", "ended"),
    [
        ([], "waiting", "skipped"),
        (["none"], "waiting", "failed"),
        (["scheduled", "none"], "waiting", "failed"),
        (["success"], "done", "done"),
        (["success", "skipped"], "done", "done"),
        (["skipped", "skipped"], "skipped", "skipped"),
        (["running", "failed"], "running", "running"),
        (["success", "none"], "running", "failed"),
        (["success", "failed"], "failed", "failed"),
        (["failed", "upstream_failed"], "failed", "failed"),
        (["upstream_failed"], "skipped", "skipped"),
        (["upstream_failed", "success"], "running", "skipped"),
        (["up_for_retry"], "waiting", "failed"),
    ],
)
def test_state(states: list[str], live: str, ended: str) -> None:
    found = dict(enumerate(states))
    assert (state_of(found, live=True), state_of(found, live=False)) == (live, ended)
