"""The last step of a build: compare what was planned with what was done, and decide the final status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Report, Status, error_map
from airflow_reindex.core.run_account import RunAccount
from airflow_reindex.core.run_outcome import States, first_error, lost, phases
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, TaskRecord, drop_staged
from airflow_reindex.director.extract.extractor import unaccounted
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import read_groups, read_plan
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
    run = RunAccount.read(folder, KIND, run_id, states, source, dest)
    if run.plan is None:
        return run.without_plan(), []
    plan = Plan.from_dict(run.plan)
    mine = run.of_plan(plan.token)
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
        notes=_notes(folder, plan, published, failures),
        **run.common,
    )
    return report, failures


def _published(records: Sequence[TaskRecord], states: Mapping[str, States]) -> TaskRecord | None:
    """The record of the publish step, if it succeeded."""
    if states["publish"].get(-1) == "upstream_failed":
        # It has not run since something was cleared: its record is of an earlier state.
        return None
    return next((r for r in records if r.task == "publish" and r.result and not r.error), None)


def _notes(folder: Folder, plan: Plan, published: TaskRecord | None, failures: Sequence[Failure]) -> dict[str, Any]:
    return {
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
        **({n: v for n, v in published.result.items() if n in KEPT and v} if published else {}),
        **({"adopted_chunks": plan.adopted_chunks} if plan.adopted_chunks else {}),
        **_changed(folder),
        **limits_of_proof(plan, failures),
    }


def limits_of_proof(plan: Plan, failures: Sequence[Failure]) -> dict[str, Any]:
    """Notes on what was not checked, and on failures that the report does not quote."""
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


def drop_build(folder: Folder, kept: Folder | None) -> None:
    """
    Drop what a build that is done staged, but for the sorted runs that the index's next build may read.

    :param kept: where these are kept; ``None``: they are dropped, too.
    """
    plan = read_plan(folder)
    staged = accounted(manifests(folder), plan.token, plan.adopted)
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
