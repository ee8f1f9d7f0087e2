"""A run as its last step finds it: Airflow's states, the tasks' records, and the plan if it is the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import Report, Status
from airflow_reindex.core.run_outcome import States, count_states, lost, task_error, task_name
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, TaskRecord, now, task_records

#: The message for a run that was done once, and of which a task was cleared without its plan.
GONE = "the plan of this run is gone, as the run was done once: clear the run from its task 'plan' on."


@dataclass(frozen=True)
class RunAccount:
    """
    What a report begins with.

    :param states: from :func:`airflow_reindex.core.run_outcome.task_states`.
    :param common: the report's fields that do not depend on a plan.
    :param plan: the content of plan.json; ``None`` if there is none, or one of before the run was cleared.
    """

    states: Mapping[str, States]
    records: Sequence[TaskRecord]
    common: Mapping[str, Any]
    plan: Mapping[str, Any] | None

    @classmethod
    def read(
        cls, folder: Folder, kind: str, run_id: str, states: Mapping[str, States], source: str, dest: str
    ) -> RunAccount:
        """
        Read the run's folder.

        :param kind: the job's name.
        :param source: as requested by the run, also when there is no plan.
        :param dest: likewise.
        """
        records = task_records(folder)
        planned = _planned(records)
        common = {
            "id": run_id,
            "kind": kind,
            "source": source,
            "dest": dest,
            "started_at": planned.started_at if planned else None,
            "updated_at": now(),
            "children": count_states(states),
        }
        plan, state = folder.read_json(PLAN), states["plan"].get(-1)
        holds = plan and planned and planned.token == plan["token"] and state in (None, "success")
        return cls(states, records, common, plan if holds else None)

    def of_plan(self, token: str) -> list[TaskRecord]:
        """The records of the tasks that worked for a plan."""
        return [record for record in self.records if record.token == token]

    def without_plan(self) -> Report:
        """The report of a run that was refused, failed before it had a plan, only planned, or was done before."""
        planned = _planned(self.records)
        if planned is not None and not planned.error and planned.result.get("dry_run"):
            text = "dry run: the checks passed, nothing was changed"
            return self._empty(Status.PENDING, "", text, planned.result)
        why, refused = self._reason(planned), planned is not None and planned.refused
        return self._empty(Status.REFUSED if refused else Status.FAILED, why.code, why.text, {})

    def _empty(self, status: Status, code: str, text: str, notes: Mapping[str, Any]) -> Report:
        counts: dict[str, Any] = {"total": 0, "count": 0, "failed": 0, "rows": 0}
        return Report(status=status, detail=truncate_detail(text), code=code, notes=notes, **counts, **self.common)

    def _reason(self, planned: TaskRecord | None) -> Reason:
        if planned is not None and planned.error:
            return Reason(planned.code, planned.error)
        state = self.states["plan"].get(-1)
        if state != "success":
            return Reason(Code.LOST_TASK, lost("plan", -1, state or "unknown"))
        # Planned once, and the plan is gone: to clear one of the other tasks alone cannot help.
        errors = (task_error(self.records, step) for step in self.states if step != "plan")
        ended = (
            f"the task {task_name(step, index)} ended as '{state}'; "
            for step, found in self.states.items()
            for index, state in sorted(found.items())
            if state not in ("success", "skipped", "upstream_failed", "removed")
        )
        return next(filter(None, errors), None) or Reason(Code.STALE_PLAN, next(ended, "") + GONE)


def _planned(records: Sequence[TaskRecord]) -> TaskRecord | None:
    return next((record for record in records if record.task == "plan"), None)
