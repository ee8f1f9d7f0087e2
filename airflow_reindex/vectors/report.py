"""The last step of a reindex: compare the plan with the outcomes, and decide the final status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_reindex.core.failures import DETAIL_LIMIT, Code, Reason, truncate_detail
from airflow_reindex.core.report import QUOTED_FAILURES, Report, Status, error_map
from airflow_reindex.core.run_account import RunAccount
from airflow_reindex.core.run_outcome import States, first_error, lost, phases
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import TaskRecord
from airflow_reindex.vectors.account import FAILED, OUTCOMES, read_failed, read_outcome, write_failed
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.model.plan import ITEMS, ReindexPlan, Window, planned_items
from airflow_reindex.vectors.sync.foreign import explain

KIND = "reindex_collection"
#: Steps in their order; an earlier step's error explains a later one's.
STEPS = ("plan", "reindex", "verify", "approve", "switch")
#: Results of the verification that the report repeats.
PROOFS = ("same_vectors", "recall_at_10", "ann_ms", "exact_ms", "quality")
#: Detail of each item of a window whose task was killed or never ran; EmbeddingStudio's preset text.
UNDONE = "Unable to create upsertion task for item"


def make_report(folder: Folder, run_id: str, states: Mapping[str, States], source: str, dest: str) -> Report:
    """
    Account for every item, decide the status, and write the list of failed items.

    :param states: from :func:`airflow_reindex.core.run_outcome.task_states`.
    :param source: as requested by the run, also when there is no plan.
    :param dest: likewise.
    """
    run = RunAccount.read(folder, KIND, run_id, states, source, dest)
    if run.plan is None or ITEMS not in folder.names():
        return run.without_plan()
    plan = ReindexPlan.from_dict(run.plan)
    mine = run.of_plan(plan.token)
    total, failures = _account(folder, plan, mine, states)
    failed = write_failed(folder, FAILED, failures)
    if not failed:
        folder.remove(FAILED)
    quoted = [item for _, item in zip(range(QUOTED_FAILURES), read_failed(folder), strict=False)]
    proven = _proof(plan, mine, states)
    over = plan.request.limit.exceeded(failed, total)
    done = proven is not None and not over
    why = first_error(mine, states, STEPS[1:]) or _reason(failed, total)
    return Report(
        status=Status.DONE if done else Status.FAILED,
        detail="" if done else truncate_detail(why.text),
        code="" if done else why.code,
        total=total,
        count=total - failed,
        failed=failed,
        rows=total - failed if proven else 0,
        failed_items=[item.as_dict() for item in quoted],
        error_ext=error_map(quoted),
        phases=phases(mine, STEPS),
        notes=_notes(folder, plan, mine, failed),
        **run.common,
    )


def _reason(failed: int, total: int) -> Reason:
    if failed:
        return Reason(Code.FAILED_ITEMS, f"{failed:,} of {total:,} items failed")
    return Reason(Code.OTHER, "the run did not come to its end")


def _proof(plan: ReindexPlan, records: Sequence[TaskRecord], states: Mapping[str, States]) -> TaskRecord | None:
    """The record of the task that proved the result: the switch, or the verification of a run that does not switch."""
    last = "switch" if plan.request.deploy_as_blue else "verify"
    if states[last].get(-1) == "upstream_failed":
        # It has not run since something was cleared: its earlier record describes an earlier state.
        return None
    return next((r for r in records if r.task == last and r.result and r.ended_at and not r.error), None)


def _account(
    folder: Folder, plan: ReindexPlan, records: Sequence[TaskRecord], states: Mapping[str, States]
) -> tuple[int, Iterator[FailedItem]]:
    """Number of all items, and those that failed."""
    for name in ("switch", "verify"):
        outcome = read_outcome(folder, name, plan.token)
        if outcome is not None:
            return outcome.seen, read_failed(folder, f"{OUTCOMES}/{name}.ndjson")
    outcomes = {window.number: read_outcome(folder, str(window.number), plan.token) for window in plan.windows}
    total = sum(outcome.seen if (outcome := outcomes[window.number]) else window.limit for window in plan.windows)

    def failures() -> Iterator[FailedItem]:
        for window in plan.windows:
            if outcomes[window.number]:
                yield from read_failed(folder, f"{OUTCOMES}/{window.number}.ndjson")
            else:
                yield from _undone(folder, plan, window, records, states)

    return total, failures()


def _undone(
    folder: Folder, plan: ReindexPlan, window: Window, records: Sequence[TaskRecord], states: Mapping[str, States]
) -> Iterator[FailedItem]:
    record = next((r for r in records if (r.task, r.index) == ("reindex", window.number)), None)
    said = record.error if record and record.ended_at else ""
    state = states["reindex"].get(window.number, "none")
    message = f"{UNDONE}: {truncate_detail(said or lost('reindex', window.number, state))}"
    if len(message) > DETAIL_LIMIT:
        message = f"{UNDONE}: …{message[len(UNDONE) + 3 - DETAIL_LIMIT :]}"
    for object_id in planned_items(folder, window.number):
        yield FailedItem(
            object_id=object_id,
            failure_stage="other",
            detail=message,
            collection=plan.source.collection_id,
            window=window.label,
        )


def _notes(folder: Folder, plan: ReindexPlan, records: Sequence[TaskRecord], failed: int) -> dict[str, Any]:
    left = _left_alone(folder, plan)
    results = {record.task: record.result for record in records if record.result and not record.error}
    work = [record.result for record in records if record.task == "reindex" and record.result]
    verified = results.get("verify", {})
    return {
        "collection": {
            "conn_id": plan.conn_id,
            "source": plan.source.collection_id,
            "dest": plan.dest.collection_id,
            "dimensions": plan.dest.dimensions,
            "metric": plan.dest.metric,
        },
        "embedded": sum(result["embedded"] for result in work) + verified.get("embedded", 0),
        "deleted": sum(result["deleted"] for result in work) + verified.get("deleted", 0),
        **{name: verified[name] for name in PROOFS if name in verified},
        **({"switch": results["switch"]} if "switch" in results else {}),
        **({"failed_items": folder.path(FAILED)} if failed else {}),
        **({"left_alone": left, "others": explain(left, plan.dest.collection_id)} if left else {}),
        **plan.notes,
    }


def _left_alone(folder: Folder, plan: ReindexPlan) -> int:
    """Number of foreign objects found by the last full pass."""
    for name in ("switch", "verify"):
        if outcome := read_outcome(folder, name, plan.token):
            return outcome.left_alone
    found = (read_outcome(folder, str(window.number), plan.token) for window in plan.windows)
    return sum(outcome.left_alone for outcome in found if outcome)
