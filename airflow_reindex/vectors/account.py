"""What windows and the verification leave in the run's folder: figures, and one line for each item that failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.staging import Folder

if TYPE_CHECKING:
    # Those who only read accounts need not have what embeds.
    from airflow_reindex.vectors.embedding.bisect import Failed
    from airflow_reindex.vectors.model.plan import Window
    from airflow_reindex.vectors.sync.reconcile import Tally

#: What each window has done: figures and failed items, a pair of files each.
OUTCOMES = "windows"
#: The run's failed items, one JSON object a line.
FAILED = "failed.ndjson"


@dataclass(frozen=True, kw_only=True)
class FailedItem:
    """
    An item that is not in the destination.

    :param object_id: the item.
    :param failure_stage: ``on_downloading``, ``on_splitting``, ``on_inference``, ``on_upsert`` or ``other``.
    :param detail: why, at most 1500 characters.
    :param collection: the collection that holds its payload under the same id.
    :param item_info: its storage metadata: where its content lies.
    :param window: the window that it belongs to, by offset and limit.
    """

    object_id: str
    failure_stage: str
    detail: str
    collection: str
    item_info: Any = None
    window: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Its place in the error map: collection, window, item."""
        return self.collection, self.window, self.object_id

    @property
    def message(self) -> str:
        """What went wrong, and where."""
        return f"{self.failure_stage}: {self.detail}"


def failed_items(failed: Iterable[Failed], collection: str, window: str) -> Iterator[FailedItem]:
    """
    Describe failures as a report does.

    :param failed: what failed.
    :param collection: the source.
    :param window: where it was planned.
    :yields: one a failure.
    """
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
    """
    Write failed items, one JSON object a line.

    :param folder: the run's folder.
    :param name: the file's name.
    :param items: the items.
    :returns: how many.
    """
    count = 0
    with folder.create(name) as stream:
        for count, item in enumerate(items, 1):  # noqa: B007
            stream.write((json.dumps(asdict(item), ensure_ascii=False, separators=(",", ":")) + "\n").encode())
    return count


def read_failed(folder: Folder, name: str = FAILED) -> Iterator[FailedItem]:
    """
    Read failed items.

    :param folder: a run's folder.
    :param name: the file's name.
    :yields: the items; none when there is no such file.
    """
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
    What a task has done to a part of the collection.

    :param token: the plan that it worked for.
    :param seen: the source's originals in its range.
    :param embedded: items embedded and landed.
    :param parts: vectors written.
    :param unchanged: items that were there already.
    :param deleted: items removed.
    :param failed: items that failed.
    :param left_alone: objects that others have written, changed or removed in the destination.
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
    Write down what a task has done; the figures come after the list, so that figures always have their list.

    :param folder: the run's folder.
    :param name: whose outcome it is: a window's number, or a task's id.
    :param token: the plan.
    :param tally: what was done.
    :param failed: the items that failed.
    :returns: what was written.
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
    Read what a task has done.

    :param folder: the run's folder.
    :param name: whose outcome it is.
    :param token: the plan at hand.
    :returns: ``None`` when the task has not come to its end for this plan.
    """
    value: Mapping[str, Any] | None = folder.read_json(f"{OUTCOMES}/{name}.json")
    return Outcome(**value) if value and value["token"] == token else None


def failed_so_far(folder: Folder, token: str, windows: Sequence[Window]) -> list[FailedItem]:
    """
    The failures of all windows that have come to their end.

    :param folder: the run's folder.
    :param token: the plan.
    :param windows: the plan's windows.
    :returns: one a failed item.
    """
    return [
        item
        for window in windows
        if read_outcome(folder, str(window.number), token)
        for item in read_failed(folder, f"{OUTCOMES}/{window.number}.ndjson")
    ]
