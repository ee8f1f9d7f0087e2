"""Metrics sent through Airflow's own client; a failing backend never fails a task."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk.observability.stats import Stats

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_reindex.core.report import Report

log = logging.getLogger(__name__)

ROWS, ITEMS, TASK_ROWS = "reindex.rows", "reindex.items", "reindex.task_rows"
RUNS, FAILURES, PHASE_SECONDS = "reindex.runs", "reindex.failures", "reindex.phase_seconds"


def count_run(context: Context, report: Report, made: Mapping[str, int], failures: Iterable[str]) -> None:
    """
    Count a run that has its report.

    :param made: what this run made, by counter: :data:`ROWS` or :data:`ITEMS`.
    :param failures: the kind of each failed chunk or item.
    """
    tags = {"job": report.kind, "dag_id": context["dag_run"].dag_id}
    with _harmless():
        Stats.incr(RUNS, tags={**tags, "status": report.status.value})
        for name, number in made.items():
            Stats.incr(name, number, tags=tags)
        for kind, count in Counter(failures).items():
            Stats.incr(FAILURES, count, tags={**tags, "kind": kind})
        for phase in report.phases:
            Stats.gauge(PHASE_SECONDS, phase.seconds, tags={**tags, "phase": phase.name})


def count_task(context: Context, job: str, rows: int) -> None:
    """
    Count the work of a mapped task that has succeeded.

    :param rows: rows or items that it processed.
    """
    with _harmless():
        tags = {"job": job, "dag_id": context["dag_run"].dag_id, "phase": context["ti"].task_id}
        Stats.incr(TASK_ROWS, rows, tags=tags)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("metrics were not sent: %s: %s", type(error).__name__, error)
