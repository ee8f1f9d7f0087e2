"""Files in the run's folder written by windows and the verification: counts, and one line for each failed item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.staging import Folder
from airflow_reindex.vectors.model.failed_item import FailedItem

if TYPE_CHECKING:
    # Code that only reads accounts does not need the embedding packages.
    from airflow_reindex.vectors.model.plan import Window
    from airflow_reindex.vectors.sync.reconcile import Tally

#: The outcome of each window: counts (.json) and failed items (.ndjson).
OUTCOMES = "windows"
#: The run's failed items, one JSON object a line.
FAILED = "failed.ndjson"


def write_failed(folder: Folder, name: str, items: Iterable[FailedItem]) -> int:
    """Write failed items, one JSON object a line, and return their number."""
    count = 0
    with folder.create(name) as stream:
        for count, item in enumerate(items, 1):  # noqa: B007
            stream.write((json.dumps(item.as_dict(), ensure_ascii=False, separators=(",", ":")) + "\n").encode())
    return count


def read_failed(folder: Folder, name: str = FAILED) -> Iterator[FailedItem]:
    """Yield failed items; none when there is no such file."""
    try:
        stream = folder.open(name)
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            yield FailedItem(**json.loads(line))


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """
    What a task has done to its part of the collection, in items.

    :param token: the plan that the task worked for.
    :param seen: originals of the source in the range.
    :param parts: vectors written.
    :param unchanged: items that were up to date already.
    :param left_alone: objects that other writers have written, changed or removed in the destination.
    """

    token: str
    seen: int
    embedded: int
    parts: int
    unchanged: int
    deleted: int
    failed: int
    left_alone: int = 0


def write_outcome(folder: Folder, name: str, token: str, tally: Tally, failed: Iterable[FailedItem]) -> TaskOutcome:
    """
    Write a task's outcome: the failed items first, so that counts never exist without their list.

    :param name: a window's number, or a task's id.
    """
    count = write_failed(folder, f"{OUTCOMES}/{name}.ndjson", failed)
    outcome = TaskOutcome(
        token=token,
        seen=tally.seen,
        embedded=tally.embedded,
        parts=tally.parts,
        unchanged=tally.unchanged,
        deleted=tally.deleted,
        failed=count,
        left_alone=tally.left_alone,
    )
    folder.write_json(f"{OUTCOMES}/{name}.json", asdict(outcome))
    return outcome


def read_outcome(folder: Folder, name: str, token: str) -> TaskOutcome | None:
    """
    Return a task's outcome; ``None`` when the task has not finished for this plan.

    :param name: a window's number, or a task's id.
    """
    value: Mapping[str, Any] | None = folder.read_json(f"{OUTCOMES}/{name}.json")
    return TaskOutcome(**value) if value and value["token"] == token else None


def failed_so_far(folder: Folder, token: str, windows: Sequence[Window]) -> list[FailedItem]:
    """Return the failed items of all finished windows."""
    return [
        item
        for window in windows
        if read_outcome(folder, str(window.number), token)
        for item in read_failed(folder, f"{OUTCOMES}/{window.number}.ndjson")
    ]
