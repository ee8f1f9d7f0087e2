"""The last step of a build: compare what was planned with what was done, and decide the final status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Report, Status, error_map
from airflow_reindex.core.run_outcome import States, count_states, first_error, lost, phases, plan_holds, unplanned
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, REPORT, TaskRecord, drop_staged, now, task_records
from airflow_reindex.director.extract.extractor import unaccounted
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import read_groups
from airflow_reindex.director.model.runs import accounted, manifests
from airflow_reindex.director.planning.completeness import unlisted_notes
from airflow_reindex.director.planning.reuse import keep_runs
from airflow_reindex.director.publish.changes import CHANGES

KIND = "build_director_index"
ERRORS = "error_ext.json"
#: All failures with their kinds, one dict each; like the map of errors it is there when the report only quotes some.
FAILURES = "failures.json"
#: What the publish step records of a previous index that is kept.
KEPT = ("previous", "roll_back")
#: The steps in their order; an earlier step's error explains a later one's.
STEPS = ("plan", "extract", "split", "load", "publish")


def make_report(
    folder: Folder, run_id: str, states: Mapping[str, States], source: str, dest: str
) -> tuple[Report, list[Failure]]:
    """
    Account for every chunk of the plan, and decide the status.

    :param states: from :func:`~airflow_reindex.core.run_outcome.task_states`.
    :returns: the report, and all failures, of which the report quotes the first.
    """
    records = {(record.task, record.index): record for record in task_records(folder)}
    planned = records.get(("plan", -1))
    common: dict[str, Any] = {
        "id": run_id, "kind": KIND, "source": source, "dest": dest,
        "started_at": planned.started_at if planned else None, "updated_at": now(), "children": count_states(states),
    }  # fmt: skip
    value, state = folder.read_json(PLAN), states["plan"].get(-1)
    if value is None or not plan_holds(value, planned, state):
        return unplanned(planned, states, common, [r for r in records.values() if r.task != "plan"]), []
    plan = Plan.from_dict(value)
    mine = [record for record in records.values() if record.token == plan.token]
    failures = _failures(folder, plan, mine, states)
    bad = len({failure.chunk for failure in failures})
    published = _published(mine, states)
    done = published is not None and not failures
    why = first_error(mine, states, STEPS[1:]) or _first_failure(failures)
    report = Report(
        status=Status.DONE if done else Status.FAILED,
        detail="" if done else truncate_detail(why.text),
        code="" if done else why.code,
        total=plan.chunks,
        count=plan.chunks - bad,
        failed=bad,
        rows=published.rows if published else 0,
        failed_items=failures[:QUOTED_FAILURES],
        error_ext=error_map(failures[:QUOTED_FAILURES]),
        phases=phases(mine, STEPS),
        notes={
            "index": _index_notes(plan),
            **({n: v for n, v in published.result.items() if n in KEPT and v} if published else {}),
            **({"adopted_chunks": plan.adopted_chunks} if plan.adopted_chunks else {}),
            **_changed(folder),
            **plan_notes(plan, failures),
        },
        **common,
    )
    return report, failures


def _published(records: Sequence[TaskRecord], states: Mapping[str, States]) -> TaskRecord | None:
    """The record of a publish step that was successful."""
    if states["publish"].get(-1) == "upstream_failed":
        # It has not run since something was cleared: its record is of an earlier state.
        return None
    return next((r for r in records if r.task == "publish" and r.result and not r.error), None)


def _index_notes(plan: Plan) -> dict[str, Any]:
    return {
        "qserv_conn_id": plan.conn_id,
        "database": plan.index_database,
        "table": plan.request.index_table,
        "columns": {
            plan.key_column: f"{plan.key.sql} NOT NULL",
            "chunkId": "INT",
            "subChunkId": plan.sub_chunk_type,
        },
        "unique": plan.unique,
    }


def plan_notes(plan: Plan, failures: Sequence[Failure]) -> dict[str, Any]:
    """What a build's and an audit's report note: what the plan left out, and of how many failures it quotes some."""
    return {
        **({"not_checked": plan.unchecked} if plan.unchecked else {}),
        **unlisted_notes(plan.unlisted),
        **({"failures_in_all": len(failures)} if len(failures) > QUOTED_FAILURES else {}),
    }


def _first_failure(failures: Sequence[Failure]) -> Reason:
    if failures:
        return Reason(failures[0].kind, failures[0].message)
    return Reason(Code.OTHER, "the index was not published, and no task says why")


def _changed(folder: Folder) -> dict[str, Any]:
    """Chunk tables that changed after they were read, when the publish step found some, or could not look."""
    found = folder.read_json(CHANGES) or {}
    return {"changed_chunks": found} if len(found) > 1 else {}


def write_report(
    folder: Folder, report: Mapping[str, Any], failures: Sequence[Failure], kept: Folder | None = None
) -> None:
    """
    Write the report, and drop or keep the staged rows of a build that is done.

    :param failures: all failures; their complete map lies beside the report when that only quotes them.
    :param kept: where to keep the staged rows for the index's next build; ``None`` to drop them.
    """
    plan = folder.read_json(PLAN) if kept is not None else None
    write_failures(folder, failures)
    folder.write_json(REPORT, report)
    if report["status"] == Status.DONE:
        staged = []
        if plan is not None:
            own = Plan.from_dict(plan)
            staged = accounted(manifests(folder), own.token, own.adopted)
        # The plan first: from now on the report alone describes this run.
        folder.remove(PLAN)
        if kept is not None and staged:
            keep_runs(folder, staged, kept)
        drop_staged(folder)


def write_failures(folder: Folder, failures: Sequence[Failure]) -> None:
    """Write what a report only quotes: all failures, and their map as Qserv has it."""
    if len(failures) > QUOTED_FAILURES:
        folder.write_json(ERRORS, error_map(failures))
        folder.write_json(FAILURES, [asdict(failure) for failure in failures])
    else:
        # Of an earlier life of the run.
        folder.remove(ERRORS)
        folder.remove(FAILURES)


def _failures(folder: Folder, plan: Plan, records: Sequence[TaskRecord], states: Mapping[str, States]) -> list[Failure]:
    """Each chunk that is not in the index, with its tasks' message, or the message for tasks that left none."""
    staged = accounted(manifests(folder), plan.token, plan.adopted)
    missing = set(unaccounted(read_groups(folder, plan), staged))
    result = [
        failure
        for record in records
        for failure in record.failures
        if record.task == "load" or failure.chunk in missing
    ]
    told = {failure.chunk for failure in result}
    for number, group in enumerate(read_groups(folder, plan) if missing - told else ()):
        for chunk in group:
            if chunk.chunk in missing - told:
                record = next((r for r in records if (r.task, r.index) == ("extract", number)), None)
                state = states["extract"].get(number, "none")
                reason = Reason(Code.LOST_TASK, lost("extract", number, state))
                if record and record.ended_at and record.error:
                    reason = Reason(record.code, record.error)
                result.append(
                    Failure(
                        table=plan.request.director_table,
                        worker=chunk.workers[0],
                        chunk=chunk.chunk,
                        message=truncate_detail(reason.text),
                        kind=reason.code,
                    )
                )
    return sorted(result, key=lambda failure: (failure.chunk, failure.worker))
