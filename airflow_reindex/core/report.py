"""The report of a run: one shape for both jobs, small enough for an XCom."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol, cast

from airflow_reindex.core.failures import DETAIL_LIMIT, Code

#: The number of failures that a report quotes; the full list lies beside it.
QUOTED_FAILURES = 100


class Status(StrEnum):
    """The final or present status of a run."""

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

    :param rows: rows that went through it.
    :param seconds: from the start of its first task to the end of its last one.
    :param tasks: the number of task instances that took part.
    """

    name: str
    rows: int
    seconds: float
    tasks: int


class Placed(Protocol):
    """A failure that an error map can show."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Table, worker and chunk, or what stands for them."""

    @property
    def message(self) -> str:
        """What went wrong."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One piece of work that failed for good; ``kind`` is what ``message`` is about."""

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

    :param kind: the job's name.
    :param detail: why the run is not done, at most 1500 characters; empty when it is.
    :param code: what that is about (:class:`Code`); empty when it is done.
    :param total: items (chunks) planned.
    :param count: items that are in the result, or ready for it.
    :param failed: items that are not.
    :param rows: rows in the published result; 0 when nothing was published.
    :param started_at: UTC, ISO 8601; so is ``updated_at``.
    :param failed_items: the first failures, as the job lists them.
    :param error_ext: ``{table: {worker: {chunk: message}}}`` of the quoted failures.
    :param children: the number of task instances by task id and state.
    :param notes: what else the reader should know: unchecked conditions, estimates, how to roll back.
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
        """The fraction of items that are accounted for: 1.0 at the end of a complete run."""
        return (self.count + self.failed) / self.total if self.total else 1.0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON types: lists, as Airflow's XCom would wrap tuples."""
        value = {**asdict(self), "status": self.status.value, "progress": round(self.progress, 6)}
        return cast("dict[str, Any]", json.loads(json.dumps(value)))


def error_map(failures: Iterable[Placed]) -> dict[str, dict[str, dict[str, str]]]:
    """
    Arrange failures as Qserv's ``error_ext`` does.

    :returns: ``{table: {worker: {chunk: message}}}``, chunk numbers as strings; several messages of one chunk are
        joined.
    """
    result: dict[str, dict[str, dict[str, str]]] = {}
    for failure in failures:
        table, worker, chunk = failure.place
        chunks = result.setdefault(table, {}).setdefault(worker, {})
        known = chunks.get(chunk)
        text = failure.message if known in (None, failure.message) else f"{known}; {failure.message}"
        chunks[chunk] = text[:DETAIL_LIMIT]
    return result
