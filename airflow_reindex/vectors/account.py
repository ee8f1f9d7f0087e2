"""Files in the run's folder written by windows and the verification: counts, and one line for each failed item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.staging import Folder

if TYPE_CHECKING:
    # Code that only reads accounts does not need the embedding packages.
    from airflow_reindex.vectors.embedding.bisect import Failed
    from airflow_reindex.vectors.model.plan import Window
    from airflow_reindex.vectors.sync.reconcile import Tally

#: The outcome of each window: counts (.json) and failed items (.ndjson).
OUTCOMES = "windows"
#: The run's failed items, one JSON object a line.
FAILED = "failed.ndjson"


@dataclass(frozen=True, kw_only=True)
class FailedItem:
    """
    A source item that is not in the destination.

    :param failure_stage: ``on_downloading``, ``on_splitting``, ``on_inference``, ``on_upsert`` or ``other``.
    :param detail: at most 1500 characters.
    :param collection: the collection with the payload; it uses the same object id.
    :param item_info: the storage metadata: where the content is.
    :param window: its window, as ``offset`` and ``limit``.
    """

    object_id: str
    failure_stage: str
    detail: str
    collection: str
    item_info: Any = None
    window: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Sort key in the error map: collection, window, item."""
        return self.collection, self.window, self.object_id

    @property
    def message(self) -> str:
        """The stage and the reason."""
        return f"{self.failure_stage}: {self.detail}"


def failed_items(failed: Iterable[Failed], collection: str, window: str) -> Iterator[FailedItem]:
    """Turn failures into the records of a report."""
    for item in failed:
        info = None if item.storage_meta_json is None else json.loads(item.storage_meta_json)
        yield FailedItem(
            object_id=item.object_id,
            failure_stage=item.stage,
            detail=item.detail,
            collection=collection,
            item_info=info,
            window=window,
        )


def write_failed(folder: Folder, name: str, items: Iterable[FailedItem]) -> int:
    """Write failed items, one JSON object a line, and return their number."""
    count = 0
    with folder.create(name) as stream:
        for count, item in enumerate(items, 1):  # noqa: B007
            stream.write((json.dumps(asdict(item), ensure_ascii=False, separators=(",", ":")) + "\n").encode())
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
class Outcome:
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


def write_outcome(folder: Folder, name: str, token: str, tally: Tally, failed: Iterable[FailedItem]) -> Outcome:
    """
    Write a task's outcome: the failed items first, so that counts never exist without their list.

    :param name: a window's number, or a task's id.
    """
    count = write_failed(folder, f"{OUTCOMES}/{name}.ndjson", failed)
    outcome = Outcome(
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


def read_outcome(folder: Folder, name: str, token: str) -> Outcome | None:
    """
    Return a task's outcome; ``None`` when the task has not finished for this plan.

    :param name: a window's number, or a task's id.
    """
    value: Mapping[str, Any] | None = folder.read_json(f"{OUTCOMES}/{name}.json")
    return Outcome(**value) if value and value["token"] == token else None


def failed_so_far(folder: Folder, token: str, windows: Sequence[Window]) -> list[FailedItem]:
    """Return the failed items of all finished windows."""
    return [
        item
        for window in windows
        if read_outcome(folder, str(window.number), token)
        for item in read_failed(folder, f"{OUTCOMES}/{window.number}.ndjson")
    ]
