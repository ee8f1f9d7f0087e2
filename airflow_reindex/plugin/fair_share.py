"""How runs share the slots of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.task.priority_strategy import PriorityWeightStrategy

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

#: As many mapped tasks as Airflow allows by default, and more.
_STEPS = 2048


class FairShare(PriorityWeightStrategy):
    """
    The n-th mapped task of any run goes before the (n + 1)-th of any other one.

    With Airflow's own rules the run that is oldest, or has the most work still before it, takes each slot that becomes
    free. A task that is not mapped goes before mapped ones: it is short, and all of its run waits for it.
    """

    def get_weight(self, ti: TaskInstance) -> int:
        """
        The weight of a task instance.

        :param ti: the instance; a task's own ``priority_weight`` counts more than its place.
        :returns: the weight.
        """
        assert ti.task is not None  # noqa: S101 - for the type checker
        return int(ti.task.priority_weight) * _STEPS - min(max(0, ti.map_index), _STEPS - 1)
