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
#: What a mapped step of each job is called.
MAPPED = {DIRECTOR: ("extract", "load"), COLLECTION: ("reindex",)}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """
    A run as Airflow has it.

    :param dag_id: its DAG.
    :param run_id: its id.
    :param state: ``queued``, ``running``, ``success`` or ``failed``.
    :param tasks: states of its tasks: ``{task: {map index: state}}``; -1 stands for an unmapped task.
    :param conf: what it was triggered with.
    :param queued_at: UTC, ISO 8601.
    :param started_at: UTC, ISO 8601; of its present life, when it was cleared.
    :param ended_at: UTC, ISO 8601.
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
        """Whether it goes on, or waits to."""
        return self.state not in ("success", "failed")

    @property
    def kind(self) -> str | None:
        """The job that its tasks do; ``None`` for a DAG of somebody else's."""
        if {"plan", "extract", "load"} <= self.tasks.keys():
            return DIRECTOR
        return COLLECTION if {"plan", "reindex", "verify"} <= self.tasks.keys() else None

    def states(self, step: str) -> States:
        """
        The states of a step's tasks.

        :param step: its task id.
        """
        return self.tasks.get(step, {})
