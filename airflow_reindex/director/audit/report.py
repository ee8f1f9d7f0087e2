"""The last step of an audit: sum up the differences that its tasks found, and decide the status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import QUOTED_FAILURES, Failure, Report, Status, error_map
from airflow_reindex.core.run_account import RunAccount
from airflow_reindex.core.run_outcome import States, first_error, lost, phases
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import TaskRecord
from airflow_reindex.director.audit.differences import Differences
from airflow_reindex.director.audit.index import IndexState
from airflow_reindex.director.audit.steps import AUDIT, DIFFERENCES
from airflow_reindex.director.extract.extractor import unaccounted
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import read_groups
from airflow_reindex.director.model.runs import Manifest, accounted, manifests
from airflow_reindex.director.report import limits_of_proof

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
    run = RunAccount.read(folder, KIND, run_id, states, source, dest)
    if run.plan is None:
        return run.without_plan(), []
    plan = Plan.from_dict(run.plan)
    mine = run.of_plan(plan.token)
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
            "sampled": audit["sampled"],
            "seed": audit["seed"],
            "of_chunks": audit["of_chunks"],
            **limits_of_proof(plan, failures),
        },
        **run.common,
    )
    return report, failures


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
