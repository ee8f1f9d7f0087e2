"""What a run's tasks record in its folder for later ones: that they started, and how they ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pendulum

from airflow_reindex.core.failures import Code, Reason, ReindexError, RequestError, SpaceError, reason_of
from airflow_reindex.core.heartbeat import LIVE, Heartbeat, with_heartbeat
from airflow_reindex.core.report import Failure
from airflow_reindex.core.staging import Folder

PLAN, REPORT, TASKS = "plan.json", "report.json", "tasks"
#: What pages show of a run whose staged rows are gone.
VIEW = "view.json"
#: Marks a run that a person has canceled.
CANCELED = "canceled.json"


@dataclass
class TaskRecord:
    """
    What one task instance did; a later attempt replaces an earlier one's.

    :param index: the map index, -1 for an unmapped task.
    :param token: the plan it worked for; empty for the plan itself.
    :param started_at: UTC, ISO 8601.
    :param ended_at: UTC, ISO 8601; empty for a task that was killed.
    :param rows: rows that went through it.
    :param error: empty when the task did not fail.
    :param refused: whether the error is the request's or the configuration's.
    :param failures: chunks that failed.
    :param result: what else later tasks and the report need.
    """

    task: str
    index: int
    token: str = ""
    started_at: str = ""
    ended_at: str = ""
    rows: int = 0
    error: str = ""
    code: Code = Code.OTHER
    refused: bool = False
    failures: list[Failure] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)


def now() -> str:
    """The present time as UTC, ISO 8601."""
    return pendulum.now("UTC").to_iso8601_string()


@contextmanager
def recorded(
    folder: Folder,
    task: str,
    index: int = -1,
    token: str = "",
    *,
    explain: Callable[[BaseException], Reason] = reason_of,
) -> Iterator[TaskRecord]:
    """
    Record a task instance, whether it succeeds or fails; the caller fills in the record.

    :param explain: finds the reason for an error; a job with drivers of its own knows their errors.
    """
    record = TaskRecord(task, index, token, started_at=now())
    name = f"{TASKS}/{task}-{index}.json"
    # Written at once, so that a task that is killed is known to have started.
    folder.write_json(name, asdict(record))
    folder.remove(f"{LIVE}/{task}-{index}.json")
    try:
        with with_heartbeat(Heartbeat(folder, task, index, token)):
            yield record
    except Exception as error:
        reason = explain(error)
        record.error, record.code = reason.text, reason.code
        record.refused = isinstance(error, RequestError)
        raise
    finally:
        record.ended_at = now()
        # On a full disk the task's own error is what the user must see.
        with suppress(*([SpaceError] if record.error else [])):
            folder.write_json(name, asdict(record))


def task_records(folder: Folder) -> list[TaskRecord]:
    """The records of a run, one per task instance that has started."""
    values = [folder.read_json(f"{TASKS}/{name}") for name in folder.names(TASKS) if name.endswith(".json")]
    return [task_record(value) for value in values if value]


def task_record(value: Mapping[str, Any]) -> TaskRecord:
    """Read a record from the content of its file."""
    failures = [Failure.from_dict(failure) for failure in value["failures"]]
    # Records of earlier versions have no code.
    return TaskRecord(**{**value, "code": Code(value.get("code", Code.OTHER)), "failures": failures})


def plan_value(folder: Folder, token: str | None = None) -> dict[str, Any]:
    """
    Read the run's plan as JSON.

    :param token: the plan that the caller was made for; ``None`` to take the present one.
    :raises ReindexError: when there is no plan, or another one than the caller's.
    """
    value: dict[str, Any] | None = folder.read_json(PLAN)
    if value is None or (token is not None and value["token"] != token):
        raise ReindexError(
            f"the plan in {folder.url} is {'gone' if value is None else 'not the one this task was made for'}: clear "
            "this run from its task 'plan' on.",
            code=Code.STALE_PLAN,
        )
    return value


def is_run_folder(folder: Folder) -> bool:
    """
    Whether a folder is a run's: it has the record of a plan, or a report, in this package's form.

    Nothing else is ever removed, wherever a setting or a claim may point.
    """
    try:
        found = folder.read_json(f"{TASKS}/plan--1.json"), folder.read_json(REPORT)
    except (ValueError, OSError):
        return False
    return any(
        isinstance(value, dict) and wanted <= value.keys()
        for value, wanted in zip(found, ({"task", "token", "started_at"}, {"kind", "error_ext"}), strict=True)
    )


def drop_staged(folder: Folder, keep: Sequence[str] = (REPORT, VIEW)) -> None:
    """Remove what a run has staged, except the names directly below its folder that are to be kept."""
    for name in folder.names():
        if name not in keep:
            folder.remove(name)
