"""Sharing of a pool's slots between runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.task.priority_strategy import PriorityWeightStrategy

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

#: More than the number of mapped tasks that Airflow allows by default.
_STEPS = 2048


class FairShare(PriorityWeightStrategy):
    """
    Weights by which the n-th mapped task of any run goes before the (n + 1)-th of any other.

    Under Airflow's own rules the run that is oldest, or has most work left, takes each slot that becomes free. A task
    that is not mapped goes first: it is short, and the rest of its run waits for it.
    """

    def get_weight(self, ti: TaskInstance) -> int:
        """Return the weight; a task's own ``priority_weight`` takes precedence over its map index."""
        assert ti.task is not None  # noqa: S101 - for the type checker
        return int(ti.task.priority_weight) * _STEPS - min(max(0, ti.map_index), _STEPS - 1)
