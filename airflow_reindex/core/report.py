"""The report of a run: one shape for both jobs, small enough for an XCom."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol, cast

from airflow_reindex.core.failures import DETAIL_LIMIT, Code

#: How many failures a report quotes; the full list lies beside it.
QUOTED_FAILURES = 100


class Status(StrEnum):
    """What became of a run."""

    PENDING = "pending"
    PROCESSING = "processing"
    DONE = "done"
    CANCELED = "canceled"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """
    What one step of a run did.

    :param name: the step's task id.
    :param rows: rows that went through it.
    :param seconds: from the first task's start to the last one's end.
    :param tasks: how many task instances took part.
    """

    name: str
    rows: int
    seconds: float
    tasks: int


class Placed(Protocol):
    """What an error map can show."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Its place: table, worker and chunk, or what stands for them."""

    @property
    def message(self) -> str:
        """What went wrong."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """
    One piece of work that failed for good.

    :param table: the table it belongs to.
    :param worker: the worker that was asked.
    :param chunk: the chunk's number.
    :param message: what went wrong.
    :param kind: what that is about.
    """

    table: str
    worker: str
    chunk: int
    message: str
    kind: Code = Code.OTHER

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Failure:
        """
        Read a failure back.

        :param value: the failure as a file has it; an older one has no kind.
        """
        return cls(**{**value, "kind": Code(value.get("kind", Code.OTHER))})

    @property
    def place(self) -> tuple[str, str, str]:
        """Its place in the error map."""
        return self.table, self.worker, str(self.chunk)


@dataclass(frozen=True, kw_only=True)
class Report:
    """
    The outcome of a run; ``count + failed == total``, and ``done`` only for a proven result.

    :param id: the run's id.
    :param kind: the job's name.
    :param status: the final status.
    :param detail: why it is not done, at most 1500 characters; empty when it is.
    :param code: what that is about (:class:`Code`); empty when it is done.
    :param source: what was read.
    :param dest: what was built.
    :param total: items (chunks) planned.
    :param count: items that are in the result, or ready for it.
    :param failed: items that are not.
    :param rows: rows in the result that was published; 0 when nothing was.
    :param failed_items: the first failures, dataclasses of the job.
    :param error_ext: ``{table: {worker: {chunk: message}}}``, of all failures that are quoted.
    :param phases: what each step did.
    :param children: task instances by task id and state.
    :param notes: what the reader should know besides: unchecked conditions, estimates, how to roll back.
    :param started_at: UTC, ISO 8601.
    :param updated_at: UTC, ISO 8601.
    """

    id: str
    kind: str
    status: Status
    detail: str
    source: str
    dest: str
    total: int
    count: int
    failed: int
    rows: int
    started_at: str | None
    updated_at: str
    code: str = ""
    failed_items: Sequence[Any] = ()
    error_ext: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    phases: Sequence[Phase] = ()
    children: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """The fraction of items that are accounted for: 1.0 at the end of a whole run."""
        return (self.count + self.failed) / self.total if self.total else 1.0

    def as_dict(self) -> dict[str, Any]:
        """
        The report as JSON can hold it.

        :returns: a dict of plain types; lists, no tuples, which Airflow's XCom would wrap.
        """
        value = {**asdict(self), "status": self.status.value, "progress": round(self.progress, 6)}
        return cast("dict[str, Any]", json.loads(json.dumps(value)))


def error_map(failures: Iterable[Placed]) -> dict[str, dict[str, dict[str, str]]]:
    """
    Arrange failures as Qserv's ``error_ext`` does, chunk numbers as strings.

    :param failures: what failed; several messages for one place are joined.
    :returns: ``{table: {worker: {chunk: message}}}``.
    """
    result: dict[str, dict[str, dict[str, str]]] = {}
    for failure in failures:
        table, worker, chunk = failure.place
        chunks = result.setdefault(table, {}).setdefault(worker, {})
        known = chunks.get(chunk)
        text = failure.message if known in (None, failure.message) else f"{known}; {failure.message}"
        chunks[chunk] = text[:DETAIL_LIMIT]
    return result
