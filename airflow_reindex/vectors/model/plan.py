"""The plan of a reindex: what moves where, and which mapped task does which window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import plan_value
from airflow_reindex.core.windows import MAX_MAPPED_TASKS
from airflow_reindex.vectors.model.collection import CollectionInfo
from airflow_reindex.vectors.model.request import ReindexRequest

#: The planned ids, one row group a window: what a window that was lost would have done.
ITEMS = "items.parquet"
_SCHEMA = pa.schema([("object_id", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Window:
    """
    What one mapped task does: the originals in the key range ``(after, upto]``.

    :param number: its map index.
    :param offset: how many planned items lie before it; with ``limit`` the seed's label.
    :param limit: how many items were planned for it.
    :param after: the range's open lower end; ``None`` for the first window.
    :param upto: its upper end; ``None`` for the last one, which also takes what is appended meanwhile.
    """

    number: int
    offset: int
    limit: int
    after: str | None
    upto: str | None

    @property
    def label(self) -> str:
        """What the UI calls its task."""
        return f"offset {self.offset}, limit {self.limit}"


@dataclass(frozen=True, kw_only=True)
class ReindexPlan:
    """
    A reindex, as its tasks read it.

    :param token: the claim's token.
    :param request: what was asked for.
    :param run_id: the run.
    :param conn_id: the connection of the collections.
    :param source: the collection that is read.
    :param dest: the collection that is built.
    :param protect: whether the destination may have newer rows than the source: then none of them is removed or
        overwritten.
    :param recipe: how items are embedded, hexadecimal.
    :param total: originals when the plan was made.
    :param windows: the windows, in the order of keys.
    :param listed_only: whether windows do only the items that were listed (``only_failed_of``).
    :param started_at: UTC, ISO 8601.
    """

    token: str
    request: ReindexRequest
    run_id: str
    conn_id: str
    source: CollectionInfo
    dest: CollectionInfo
    protect: bool
    recipe: str
    total: int
    windows: Sequence[Window]
    listed_only: bool = False
    started_at: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ReindexPlan:
        """
        Read a plan.

        :param value: from :meth:`as_dict`.
        """
        return cls(
            **{
                **value,
                "request": ReindexRequest(**value["request"]),
                "source": CollectionInfo(**value["source"]),
                "dest": CollectionInfo(**value["dest"]),
                "windows": tuple(Window(**window) for window in value["windows"]),
            }
        )


def window_size(total: int, batch_size: int) -> int:
    """
    How many items a window gets.

    :param total: items in all.
    :param batch_size: what was asked for.
    :returns: that, or as many more as it takes to stay within the number of mapped tasks that Airflow allows.
    """
    return max(batch_size, -(-total // MAX_MAPPED_TASKS))


def write_windows(folder: Folder, keys: Iterator[list[str]], size: int) -> list[Window]:
    """
    Cut an ordered pass over the keys into windows, and write down which items each was planned for.

    Memory is bounded by one window and one batch of keys.

    :param folder: the run's folder.
    :param keys: ids in the store's order, in batches of any size.
    :param size: items a window.
    :returns: the windows: their ranges cover the whole key space, and no key is in two of them.
    """
    made: list[Window] = []
    offset, after = 0, None
    waiting: list[str] = []
    with folder.create(ITEMS) as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:

        def cut(items: list[str]) -> None:
            nonlocal offset, after
            writer.write_table(pa.table({"object_id": items}, schema=_SCHEMA), row_group_size=len(items))
            made.append(Window(number=len(made), offset=offset, limit=len(items), after=after, upto=items[-1]))
            offset, after = offset + len(items), items[-1]

        for batch in keys:
            waiting += batch
            # One more than a window is kept back: the last window has no upper end. It takes the rest, should the
            # collection have grown while its keys were read.
            while len(waiting) > size and len(made) < MAX_MAPPED_TASKS - 1:
                cut(waiting[:size])
                waiting = waiting[size:]
        if waiting:
            cut(waiting)
    if made:
        last = made[-1]
        made[-1] = Window(number=last.number, offset=last.offset, limit=last.limit, after=last.after, upto=None)
    return made


def planned_items(folder: Folder, number: int) -> list[str]:
    """
    The ids that a window was planned for.

    :param folder: the run's folder.
    :param number: the window's number.
    :returns: ids in the store's order.
    """
    with folder.open(ITEMS) as stream:
        ids: list[str] = pq.ParquetFile(stream).read_row_group(number).column("object_id").to_pylist()
    return ids


def coarse_ranges(windows: Sequence[Window], items: int) -> list[tuple[str | None, str | None]]:
    """
    Join windows into larger key ranges, for passes over the whole collection.

    :param windows: in the order of keys; may be none.
    :param items: about how many items a range should have.
    :returns: ranges ``(after, upto]`` that cover the whole key space.
    """
    result: list[tuple[str | None, str | None]] = []
    after, weight = None, 0
    for window in windows:
        weight += window.limit
        if weight >= items and window.upto is not None:
            result.append((after, window.upto))
            after, weight = window.upto, 0
    return [*result, (after, None)]


def read_plan(folder: Folder, token: str | None = None) -> ReindexPlan:
    """
    Read the run's plan.

    :param folder: the run's folder.
    :param token: the token that the caller was given; ``None`` to take what is there.
    :returns: the plan.
    :raises ReindexError: there is none, or it is another plan than the caller's.
    """
    return ReindexPlan.from_dict(plan_value(folder, token))
