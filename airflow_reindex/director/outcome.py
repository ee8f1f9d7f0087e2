"""The last step of a build: compare what was planned with what was seen, and decide the final status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pendulum

from airflow_reindex.core.failures import detail
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Phase, Report, Status, error_map
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.extract import unaccounted
from airflow_reindex.director.plan import Plan
from airflow_reindex.director.records import PLAN, REPORT, TaskRecord, drop_staged, now, task_records
from airflow_reindex.director.runs import accounted, manifests

KIND = "build_director_index"
ERRORS = "error_ext.json"
#: What the publish step says of a previous index that is kept.
KEPT = ("previous", "roll_back")
#: The steps in their order; an earlier step's error explains a later one's.
STEPS = ("plan", "extract", "split", "load", "publish")
#: What is said of work whose task ended without a word (``handle_failed_subtask``'s preset detail).
LOST = "the task {task} ended as '{state}' and left no error: it was killed, or never ran. Clear it to do what is left."


def task_states(states: Mapping[str, str | None]) -> dict[str, dict[int, str]]:
    """
    Arrange the states that Airflow gives for a run.

    :param states: by ``task`` or ``task_<map index>``.
    :returns: ``{task: {map index: state}}`` for the build's steps; -1 stands for an unmapped task.
    """
    result: dict[str, dict[int, str]] = {step: {} for step in STEPS}
    for name, state in states.items():
        match = re.fullmatch(rf"({'|'.join(STEPS)})(?:_(\d+))?", name)
        if match:
            result[match[1]][int(match[2]) if match[2] else -1] = str(state or "none")
    return result


def make_report(
    folder: Folder, run_id: str, states: Mapping[str, Mapping[int, str]], source: str, dest: str
) -> tuple[Report, list[Failure]]:
    """
    Account for every chunk of the plan, and decide the status.

    :param folder: the run's folder.
    :param run_id: the run.
    :param states: from :func:`task_states`.
    :param source: what was asked to be read.
    :param dest: what was asked to be built.
    :returns: the report, and all failures, of which the report quotes the first.
    """
    records = {(record.task, record.index): record for record in task_records(folder)}
    planned = records.get(("plan", -1))
    common: dict[str, Any] = {
        "id": run_id,
        "kind": KIND,
        "source": source,
        "dest": dest,
        "started_at": planned.started_at if planned else None,
        "updated_at": now(),
        "children": {task: _count(found) for task, found in states.items() if found},
    }
    plan = _plan_of(folder, planned, states)
    if plan is None:
        return _unplanned(planned, states, common), []
    mine = [record for record in records.values() if record.token == plan.token]
    failures = _failures(folder, plan, mine, states)
    bad = len({failure.chunk for failure in failures})
    published = next((r for r in mine if r.task == "publish" and r.result and not r.error), None)
    done = published is not None and not failures
    report = Report(
        status=Status.DONE if done else Status.FAILED,
        detail="" if done else detail(_why(mine, states, failures)),
        total=plan.chunks,
        count=plan.chunks - bad,
        failed=bad,
        rows=published.rows if published else 0,
        failed_items=failures[:QUOTED_FAILURES],
        error_ext=error_map(failures[:QUOTED_FAILURES]),
        phases=_phases(mine),
        notes={
            "index": {
                "qserv_conn_id": plan.conn_id,
                "database": plan.index_database,
                "table": plan.request.index_table,
                "columns": {
                    plan.key_column: f"{plan.key.sql} NOT NULL",
                    "chunkId": "INT",
                    "subChunkId": plan.sub_chunk_type,
                },
                "unique": plan.unique,
            },
            **({"not_checked": plan.unchecked} if plan.unchecked else {}),
            **({n: v for n, v in published.result.items() if n in KEPT and v} if published else {}),
            **({"adopted_chunks": plan.adopted_chunks} if plan.adopted_chunks else {}),
            **({"failures_in_all": len(failures)} if len(failures) > QUOTED_FAILURES else {}),
        },
        **common,
    )
    return report, failures


def write_report(folder: Folder, report: Mapping[str, Any], failures: Sequence[Failure]) -> None:
    """
    Write the report, and drop the staged rows of a build that is done.

    :param folder: the run's folder.
    :param report: the report as a dict.
    :param failures: all failures; their complete map lies beside the report when it only quotes them.
    """
    if len(failures) > QUOTED_FAILURES:
        folder.write_json(ERRORS, error_map(failures))
    else:
        folder.remove(ERRORS)
    folder.write_json(REPORT, report)
    if report["status"] == Status.DONE:
        drop_staged(folder)


def _plan_of(folder: Folder, planned: TaskRecord | None, states: Mapping[str, Mapping[int, str]]) -> Plan | None:
    value = folder.read_json(PLAN)
    state = states["plan"].get(-1)
    # A plan.json of an earlier life of this run is no plan of this one.
    if value is None or planned is None or planned.token != value["token"] or state not in (None, "success"):
        return None
    return Plan.from_dict(value)


def _unplanned(
    planned: TaskRecord | None, states: Mapping[str, Mapping[int, str]], common: Mapping[str, Any]
) -> Report:
    dry = planned is not None and not planned.error and bool(planned.result.get("dry_run"))
    if dry and planned is not None:
        status, text = Status.PENDING, "dry run: the checks passed, nothing was changed"
        notes = planned.result
    else:
        status = Status.REFUSED if planned is not None and planned.refused else Status.FAILED
        lost = LOST.format(task="plan", state=states["plan"].get(-1, "unknown"))
        text, notes = (planned.error if planned else "") or lost, {}
    return Report(status=status, detail=detail(text), total=0, count=0, failed=0, rows=0, notes=notes, **common)


def _failures(
    folder: Folder, plan: Plan, records: Sequence[TaskRecord], states: Mapping[str, Mapping[int, str]]
) -> list[Failure]:
    """Each chunk that is not in the index, with what its tasks said of it, or that they said nothing."""
    missing = set(unaccounted(plan, accounted(manifests(folder), plan.token, plan.adopted)))
    result = [
        failure
        for record in records
        for failure in record.failures
        if record.task == "load" or failure.chunk in missing
    ]
    told = {failure.chunk for failure in result}
    for number, group in enumerate(plan.groups):
        for chunk in group:
            if chunk.chunk in missing - told:
                record = next((r for r in records if (r.task, r.index) == ("extract", number)), None)
                state = states["extract"].get(number, "none")
                said = record.error if record and record.ended_at else ""
                message = said or LOST.format(task=f"extract[{number}]", state=state)
                result.append(
                    Failure(
                        table=plan.request.director_table,
                        worker=chunk.workers[0],
                        chunk=chunk.chunk,
                        message=detail(message),
                    )
                )
    return sorted(result, key=lambda failure: (failure.chunk, failure.worker))


def _why(records: Sequence[TaskRecord], states: Mapping[str, Mapping[int, str]], failures: Sequence[Failure]) -> str:
    for step in STEPS[1:]:
        errors = [
            f"{_name(r)}: {r.error}" for r in sorted(records, key=lambda r: r.index) if r.task == step and r.error
        ]
        if errors:
            return errors[0] + (f" (and {len(errors) - 1} more {step} tasks failed)" if len(errors) > 1 else "")
        for index, state in sorted(states[step].items()):
            if state not in ("success", "skipped", "upstream_failed"):
                name = step if index < 0 else f"{step}[{index}]"
                return LOST.format(task=name, state=state)
    return failures[0].message if failures else "the index was not published, and no task says why"


def _name(record: TaskRecord) -> str:
    return record.task if record.index < 0 else f"{record.task}[{record.index}]"


def _phases(records: Sequence[TaskRecord]) -> list[Phase]:
    result = []
    for step in STEPS:
        mine = [r for r in records if r.task == step and r.ended_at]
        if mine:
            begin, end = min(r.started_at for r in mine), max(r.ended_at for r in mine)
            seconds = (pendulum.parse(end) - pendulum.parse(begin)).total_seconds()  # type: ignore[operator, union-attr]
            result.append(Phase(name=step, rows=sum(r.rows for r in mine), seconds=round(seconds, 3), tasks=len(mine)))
    return result


def _count(states: Mapping[int, str]) -> dict[str, int]:
    return {state: list(states.values()).count(state) for state in sorted(set(states.values()))}
