"""What Airflow knows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_reindex.core.run_outcome import States
from airflow_reindex.director import report as director_outcome
from airflow_reindex.vectors import report as collection_outcome

DIRECTOR, COLLECTION = director_outcome.KIND, collection_outcome.KIND
STEPS = {DIRECTOR: director_outcome.STEPS, COLLECTION: collection_outcome.STEPS}
#: The mapped steps of each job.
MAPPED = {DIRECTOR: ("extract", "load"), COLLECTION: ("reindex",)}


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """
    A run as Airflow has it; times are UTC, ISO 8601.

    :param state: ``queued``, ``running``, ``success`` or ``failed``.
    :param tasks: ``{task: {map index: state}}``; -1 stands for an unmapped task.
    :param conf: the conf that it was triggered with.
    :param started_at: start of the current attempt, when the run was cleared.
    """

    dag_id: str
    run_id: str
    state: str
    tasks: Mapping[str, States]
    conf: Mapping[str, Any] = field(default_factory=dict)
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.state not in ("success", "failed")

    @property
    def kind(self) -> str | None:
        """The job of its tasks; ``None`` for another package's DAG."""
        if {"plan", "extract", "load"} <= self.tasks.keys():
            return DIRECTOR
        return COLLECTION if {"plan", "reindex", "verify"} <= self.tasks.keys() else None

    def states(self, step: str) -> States:
        """Return the states of a step's tasks by map index."""
        return self.tasks.get(step, {})
