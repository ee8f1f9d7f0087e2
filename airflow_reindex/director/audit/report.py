"""The last step of an audit: sum up the differences that its tasks found, and decide the status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Report, Status, error_map
from airflow_reindex.core.run_outcome import States, count_states, first_error, lost, phases, plan_holds, unplanned
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, REPORT, TaskRecord, drop_staged, now, task_records
from airflow_reindex.director.audit.differences import Differences
from airflow_reindex.director.audit.index import IndexState
from airflow_reindex.director.audit.steps import AUDIT, DIFFERENCES
from airflow_reindex.director.extract.extractor import unaccounted
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import read_groups, read_plan
from airflow_reindex.director.model.runs import Manifest, accounted, manifests
from airflow_reindex.director.report import ERRORS, FAILURES, plan_notes, write_failures

KIND = "audit_director_index"
STEPS = ("plan", "extract", "split", "compare")
#: Stands for the worker of a chunk that no worker has.
NO_WORKER = "(no worker)"


def make_report(
    folder: Folder, run_id: str, states: Mapping[str, States], source: str, dest: str, present: IndexState | None
) -> tuple[Report, list[Failure]]:
    """
    Account for every chunk that was to be compared.

    :param states: from :func:`~airflow_reindex.core.run_outcome.task_states`.
    :param dest: the index.
    :param present: which table the index is now; ``None`` when unknown.
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
        return unplanned(planned, states, common), []
    plan = read_plan(folder)
    mine = [record for record in records.values() if record.token == plan.token]
    staged = accounted(manifests(folder), plan.token)
    found = _differences(folder)
    failures = _failures(folder, plan, staged, mine, states, found)
    bad = len({failure.chunk for failure in failures})
    audit, compared = folder.read_json(AUDIT), sum(manifest.rows for manifest in staged)
    moved = present is not None and present.created != audit["index"]["created"]
    why = _verdict(found, failures, first_error(mine, states, STEPS), moved=moved)
    report = Report(
        status=Status.FAILED if why else Status.DONE,
        detail=truncate_detail(why.text) if why else "",
        code=why.code if why else "",
        total=plan.chunks,
        count=plan.chunks - min(bad, plan.chunks),
        failed=min(bad, plan.chunks),
        rows=compared,
        failed_items=failures[:QUOTED_FAILURES],
        error_ext=error_map(failures[:QUOTED_FAILURES]),
        phases=phases(mine, STEPS),
        notes={
            "differences": found.totals(),
            "rows_compared": compared,
            **{name: audit[name] for name in ("sampled", "seed", "of_chunks")},
            **plan_notes(plan, failures),
        },
        **common,
    )
    return report, failures


def write_report(folder: Folder, report: Mapping[str, Any], failures: Sequence[Failure]) -> None:
    """Write the report, beside it all failures if it only quotes them; staged files go when all tasks succeeded."""
    write_failures(folder, failures)
    folder.write_json(REPORT, report)
    unfinished = any(set(states) - {"success", "skipped"} for states in report["children"].values())
    if not unfinished:
        drop_staged(folder, keep=(REPORT, ERRORS, FAILURES))


def _verdict(found: Differences, failures: Sequence[Failure], error: Reason | None, *, moved: bool) -> Reason | None:
    """Why the index is not proven right; ``None`` when it is."""
    if moved:
        return Reason(Code.CONFLICT, "the index was replaced while it was compared: run the audit again.")
    totals = {kind: count for kind, count in found.totals().items() if count}
    if totals:
        what = ", ".join(f"{count} {kind}" for kind, count in totals.items())
        text = f"rows of the index differ from the chunk tables: {what}. {error.text if error else ''}".strip()
        return Reason(Code.INDEX_DIFFERS, text)
    return error or (Reason(failures[0].kind, failures[0].message) if failures else None)


def _differences(folder: Folder) -> Differences:
    result = Differences()
    for name in folder.names(DIFFERENCES):
        result.merge(folder.read_json(f"{DIFFERENCES}/{name}") or {})
    return result


def _failures(
    folder: Folder,
    plan: Plan,
    staged: Sequence[Manifest],
    records: Sequence[TaskRecord],
    states: Mapping[str, States],
    found: Differences,
) -> list[Failure]:
    """Chunks that differ, and chunks that could not be read."""
    table = plan.request.director_table
    worker_of = {chunk.chunk: chunk.worker for manifest in staged for chunk in manifest.chunks}
    result = [
        Failure(
            table=table,
            worker=worker_of.get(chunk, NO_WORKER),
            chunk=chunk,
            message=truncate_detail(message),
            kind=Code.INDEX_DIFFERS,
        )
        for chunk, message in found.messages().items()
    ]
    missing = set(unaccounted(read_groups(folder, plan), staged))
    result += [failure for record in records for failure in record.failures if failure.chunk in missing]
    told = {failure.chunk for failure in result}
    for number, group in enumerate(read_groups(folder, plan) if missing - told else ()):
        result += [
            Failure(
                table=table,
                worker=chunk.workers[0],
                chunk=chunk.chunk,
                message=truncate_detail(lost("extract", number, states["extract"].get(number, "none"))),
                kind=Code.LOST_TASK,
            )
            for chunk in group
            if chunk.chunk in missing - told
        ]
    return sorted(result, key=lambda failure: (failure.chunk, failure.worker))
