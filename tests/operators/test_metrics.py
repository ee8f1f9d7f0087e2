"""What metrics are called, what they count, and the board that shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics.statsd_logger import SafeStatsdLogger

from airflow_reindex.core.report import Phase, Report, Status
from airflow_reindex.operators import metrics
from tests.support.meter import metered

BOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana-board.json").read_text())
#: Of Airflow's own metrics.
AIRFLOWS = {"airflow_ti_running"}
CONTEXT: Any = {"dag_run": SimpleNamespace(dag_id="nightly.sky"), "ti": SimpleNamespace(task_id="extract")}
REPORT = Report(
    id="run", kind="build_director_index", status=Status.FAILED, detail="", source="", dest="", total=9, count=6,
    failed=3, rows=0, started_at=None, updated_at="", phases=[Phase(name="extract", rows=70, seconds=1.5, tasks=2)],
)  # fmt: skip


def emit() -> None:
    """Send each metric once."""
    metrics.count_run(CONTEXT, REPORT, {metrics.ROWS: 0}, ["connection", "other", "connection"])
    metrics.count_run(CONTEXT, REPORT, {metrics.ITEMS: 6}, [])
    metrics.count_task(CONTEXT, "build_director_index", 70)


def test_what_is_counted() -> None:
    with metered() as meter:
        emit()
    both = {"job": "build_director_index", "dag_id": "nightly.sky"}
    assert meter.points("airflow.reindex.runs", "status", **both) == {("failed",): 2}
    assert meter.points("airflow.reindex.failures", "kind", **both) == {("connection",): 2, ("other",): 1}
    assert meter.points("airflow.reindex.items", **both) == {(): 6}
    assert meter.points("airflow.reindex.rows", **both) == {(): 0}
    assert meter.points("airflow.reindex.task_rows", "phase", **both) == {("extract",): 70}
    assert meter.points("airflow.reindex.phase_seconds", "phase", **both) == {("extract",): 1.5}


def test_statsd_takes_names_and_tags() -> None:
    sent: list[str] = []
    client = SimpleNamespace(incr=lambda stat, *_: sent.append(stat), gauge=lambda stat, *_: sent.append(stat))
    backend = SafeStatsdLogger(client, influxdb_tags_enabled=True, statsd_influxdb_enabled=True)
    with metered(backend):
        emit()
    assert "reindex.failures,job=build_director_index,dag_id=nightly.sky,kind=connection" in sent
    assert len(sent) == 9


class Broken:
    """A backend that is away."""

    def __getattr__(self, name: str) -> Any:
        raise OSError("no route to host")


def test_a_backend_that_fails_fails_no_task(caplog: pytest.LogCaptureFixture) -> None:
    with metered(Broken()):
        emit()
    assert caplog.text.count("metrics were not sent: OSError: no route to host") == 3


def test_the_board_shows_what_there_is() -> None:
    with metered() as meter:
        emit()
    there = {name.replace(".", "_") for name in meter.names()}
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    queries += [v["query"]["query"] for v in BOARD["templating"]["list"] if v["type"] == "query"]
    shown = {name for query in queries for name in re.findall(r"airflow_\w+", query)}
    assert shown == there | AIRFLOWS, "all that is sent is shown, and nothing else"


def test_the_boards_panels() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(numbers) == len(set(numbers)) == 7
    assert {panel["datasource"]["uid"] for panel in BOARD["panels"]} == {"${datasource}"}
    cells = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "no panel lies on another"
