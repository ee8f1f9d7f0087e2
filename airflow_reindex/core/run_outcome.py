"""The outcome of a run's tasks, from Airflow's states and the tasks' own records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pendulum

from airflow_reindex.core.failures import Code, Reason
from airflow_reindex.core.report import Phase, Status
from airflow_reindex.core.task_records import TaskRecord

#: The message for a task that ended without writing an error.
LOST = "the task {task} ended as '{state}' and left no error: it was killed, or never ran. Clear it to do what is left."

#: Map index to state; -1 stands for an unmapped task.
States = Mapping[int, str]


def task_states(states: Mapping[str, str | None], steps: Sequence[str]) -> dict[str, dict[int, str]]:
    """
    Arrange the states that Airflow gives for a run, by ``task`` or ``task_<map index>``.

    :param steps: the task ids that matter.
    :returns: ``{task: {map index: state}}``; -1 stands for an unmapped task.
    """
    result: dict[str, dict[int, str]] = {step: {} for step in steps}
    for name, state in states.items():
        match = re.fullmatch(rf"({'|'.join(steps)})(?:_(\d+))?", name)
        if match:
            result[match[1]][int(match[2]) if match[2] else -1] = str(state or "none")
    return result


def count_states(states: Mapping[str, States]) -> dict[str, dict[str, int]]:
    """Count task instances by task and state, as a report's ``children``; tasks without instances are left out."""
    return {
        task: {state: list(found.values()).count(state) for state in sorted(set(found.values()))}
        for task, found in states.items()
        if found
    }


def lost(step: str, index: int, state: str) -> str:
    """The message for a task that ended without writing an error."""
    return LOST.format(task=task_name(step, index), state=state)


def first_error(records: Sequence[TaskRecord], states: Mapping[str, States], steps: Sequence[str]) -> Reason | None:
    """
    Why a run is not done: an earlier step's error explains a later one's.

    :param records: of the present plan.
    :param steps: the task ids in their order.
    :returns: the first error, or what is said of a task that left none; ``None`` when there is no such task.
    """
    for step in steps:
        if error := task_error(records, step):
            return error
        for index, state in sorted(states[step].items()):
            if state not in ("success", "skipped", "upstream_failed"):
                return Reason(Code.LOST_TASK, lost(step, index, state))
    return None


def task_error(records: Sequence[TaskRecord], step: str) -> Reason | None:
    """The first error that the tasks of a step recorded."""
    errors = [r for r in sorted(records, key=lambda r: r.index) if r.task == step and r.error]
    if not errors:
        return None
    more = f" (and {len(errors) - 1} more {step} tasks failed)" if len(errors) > 1 else ""
    return Reason(errors[0].code, f"{task_name(step, errors[0].index)}: {errors[0].error}{more}")


def phases(records: Sequence[TaskRecord], steps: Sequence[str]) -> list[Phase]:
    """
    One phase per step that has ended.

    :param records: of the present plan.
    :param steps: the task ids in their order.
    """
    result = []
    for step in steps:
        mine = [r for r in records if r.task == step and r.ended_at]
        if mine:
            begin, end = min(r.started_at for r in mine), max(r.ended_at for r in mine)
            seconds = (pendulum.parse(end) - pendulum.parse(begin)).total_seconds()  # type: ignore[operator, union-attr]
            result.append(Phase(name=step, rows=sum(r.rows for r in mine), seconds=round(seconds, 3), tasks=len(mine)))
    return result


def report_stands(
    report: Mapping[str, Any] | None, states: Mapping[str, States], records: Sequence[TaskRecord]
) -> bool:
    """Whether a report from before the run was cleared still holds: it says done, and no task has failed since."""
    good = all(state in ("success", "skipped", "removed") for found in states.values() for state in found.values())
    return report is not None and report["status"] == Status.DONE and good and not any(r.error for r in records)


def task_name(step: str, index: int) -> str:
    """The task instance as people write it: ``extract[3]``."""
    return step if index < 0 else f"{step}[{index}]"
