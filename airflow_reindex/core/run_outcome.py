"""The outcome of a run's tasks, from Airflow's states and the tasks' own records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pendulum

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import Phase, Report, Status
from airflow_reindex.core.task_records import TaskRecord

#: The message for a task that ended without writing an error.
LOST = "the task {task} ended as '{state}' and left no error: it was killed, or never ran. Clear it to do what is left."

#: The message for a run that was done once, and of which a task was cleared without its plan.
GONE = "the plan of this run is gone, as the run was done once: clear the run from its task 'plan' on."

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
    return LOST.format(task=_name(step, index), state=state)


def first_error(records: Sequence[TaskRecord], states: Mapping[str, States], steps: Sequence[str]) -> Reason | None:
    """
    Why a run is not done: an earlier step's error explains a later one's.

    :param records: of the present plan.
    :param steps: the task ids in their order.
    :returns: the first error, or what is said of a task that left none; ``None`` when there is no such task.
    """
    for step in steps:
        errors = [r for r in sorted(records, key=lambda r: r.index) if r.task == step and r.error]
        if errors:
            more = f" (and {len(errors) - 1} more {step} tasks failed)" if len(errors) > 1 else ""
            return Reason(errors[0].code, f"{_name(step, errors[0].index)}: {errors[0].error}{more}")
        for index, state in sorted(states[step].items()):
            if state not in ("success", "skipped", "upstream_failed"):
                return Reason(Code.LOST_TASK, lost(step, index, state))
    return None


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


def plan_holds(value: Mapping[str, Any] | None, planned: TaskRecord | None, state: str | None) -> bool:
    """
    Whether plan.json belongs to the current attempt of the run (not to one before it was cleared).

    :param value: the file's content.
    :param planned: the record of the task ``plan``.
    :param state: the state that Airflow gives the task ``plan``.
    """
    return value is not None and planned is not None and planned.token == value["token"] and state in (None, "success")


def report_stands(
    report: Mapping[str, Any] | None, states: Mapping[str, States], records: Sequence[TaskRecord]
) -> bool:
    """Whether a report from before the run was cleared still holds: it says done, and no task has failed since."""
    good = all(state in ("success", "skipped", "removed") for found in states.values() for state in found.values())
    return report is not None and report["status"] == Status.DONE and good and not any(r.error for r in records)


def unplanned(
    planned: TaskRecord | None,
    states: Mapping[str, States],
    common: Mapping[str, Any],
    others: Sequence[TaskRecord] = (),
) -> Report:
    """
    The report of a run without a plan: refused, failed, a dry run, or one whose plan was removed when it was done.

    :param planned: the record of the task ``plan``.
    :param common: the report's fields that do not depend on a plan.
    :param others: the records of the other tasks.
    """
    if planned is not None and not planned.error and planned.result.get("dry_run"):
        why, notes = Reason(Code.OTHER, "dry run: the checks passed, nothing was changed"), planned.result
        status, code = Status.PENDING, ""
    else:
        status = Status.REFUSED if planned is not None and planned.refused else Status.FAILED
        why, notes = _unplanned_reason(planned, states, others), {}
        code = why.code
    return Report(
        status=status,
        detail=truncate_detail(why.text),
        code=code,
        total=0,
        count=0,
        failed=0,
        rows=0,
        notes=notes,
        **common,
    )


def _unplanned_reason(planned: TaskRecord | None, states: Mapping[str, States], others: Sequence[TaskRecord]) -> Reason:
    if planned is not None and planned.error:
        return Reason(planned.code, planned.error)
    state = states["plan"].get(-1)
    if state == "success":
        return _without_plan(others, states)
    return Reason(Code.LOST_TASK, lost("plan", -1, state or "unknown"))


def _without_plan(records: Sequence[TaskRecord], states: Mapping[str, States]) -> Reason:
    """Why a run whose plan is gone is not done; clearing one of its tasks alone cannot help."""
    error = first_error([r for r in records if r.error], {step: {} for step in states}, list(states))
    ended = [
        f"the task {_name(step, index)} ended as '{state}'; "
        for step, found in states.items()
        for index, state in sorted(found.items())
        if state not in ("success", "skipped", "upstream_failed", "removed")
    ]
    return error or Reason(Code.STALE_PLAN, "".join(ended[:1]) + GONE)


def _name(step: str, index: int) -> str:
    return step if index < 0 else f"{step}[{index}]"
