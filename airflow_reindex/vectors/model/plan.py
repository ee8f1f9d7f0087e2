"""The plan of a reindex: source, destination, and the window of each mapped task."""

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

#: The planned ids, one row group per window: the failed items of a window whose task was lost.
ITEMS = "items.parquet"
_SCHEMA = pa.schema([("object_id", pa.string())])
#: Names of fields in plan.json that are those of the first version, kept so that its files stay readable.
_STORED_AS = {"preserve_newer": "protect", "embedding_config_hash": "recipe", "until": "upto"}
_READ_AS = {stored: name for name, stored in _STORED_AS.items()}


@dataclass(frozen=True, kw_only=True)
class Window:
    """
    The work of one mapped task: the originals in the key range ``(after, until]``.

    :param number: the map index.
    :param offset: number of planned items before it; with ``limit`` EmbeddingStudio's label.
    :param limit: number of items planned for it.
    :param after: ``None`` for the first window.
    :param until: ``None`` for the last window, which also takes items appended meanwhile.
    """

    number: int
    offset: int
    limit: int
    after: str | None
    until: str | None

    @property
    def label(self) -> str:
        """The map index label of its task in the UI."""
        return f"offset {self.offset}, limit {self.limit}"


@dataclass(frozen=True, kw_only=True)
class ReindexPlan:
    """
    A reindex as its tasks read it.

    :param token: of the claim; empty for a dry run.
    :param conn_id: the Airflow connection of the collections.
    :param preserve_newer: the destination may have rows newer than the source's, which are not removed or overwritten.
    :param embedding_config_hash: hexadecimal.
    :param total: originals when the plan was made.
    :param windows: in the order of keys.
    :param listed_only: windows process only the listed items (``only_failed_of``).
    :param started_at: UTC, ISO 8601.
    """

    token: str
    request: ReindexRequest
    run_id: str
    conn_id: str
    source: CollectionInfo
    dest: CollectionInfo
    preserve_newer: bool
    embedding_config_hash: str
    total: int
    windows: Sequence[Window]
    listed_only: bool = False
    started_at: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plan.json has it."""
        value = asdict(self)
        windows = [_renamed(window, _STORED_AS) for window in value["windows"]]
        return {**_renamed(value, _STORED_AS), "windows": windows}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ReindexPlan:
        """Read a plan from :meth:`as_dict`."""
        return cls(
            **{
                **_renamed(value, _READ_AS),
                "request": ReindexRequest(**value["request"]),
                "source": CollectionInfo(**value["source"]),
                "dest": CollectionInfo(**value["dest"]),
                "windows": tuple(Window(**_renamed(window, _READ_AS)) for window in value["windows"]),
            }
        )


def _renamed(value: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): entry for name, entry in value.items()}


def window_size(total: int, batch_size: int) -> int:
    """Return ``batch_size``, or more where Airflow's limit of mapped tasks requires it."""
    return max(batch_size, -(-total // MAX_MAPPED_TASKS))


def write_windows(folder: Folder, keys: Iterator[list[str]], size: int) -> list[Window]:
    """
    Cut an ordered pass over the keys into windows, and write the ids that each was planned for.

    Memory is bounded by one window and one batch of keys.

    :param keys: in the store's order, in batches of any size.
    :param size: items per window.
    :returns: windows whose ranges are disjoint and cover the whole key space.
    """
    made: list[Window] = []
    offset, after = 0, None
    waiting: list[str] = []
    with folder.create(ITEMS) as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:

        def cut(items: list[str]) -> None:
            nonlocal offset, after
            writer.write_table(pa.table({"object_id": items}, schema=_SCHEMA), row_group_size=len(items))
            made.append(Window(number=len(made), offset=offset, limit=len(items), after=after, until=items[-1]))
            offset, after = offset + len(items), items[-1]

        for batch in keys:
            waiting += batch
            # One item more than a window is kept back, as the last window has no upper end. It takes the rest if the
            # collection has grown while its keys were read.
            while len(waiting) > size and len(made) < MAX_MAPPED_TASKS - 1:
                cut(waiting[:size])
                waiting = waiting[size:]
        if waiting:
            cut(waiting)
    if made:
        last = made[-1]
        made[-1] = Window(number=last.number, offset=last.offset, limit=last.limit, after=last.after, until=None)
    return made


def planned_items(folder: Folder, number: int) -> list[str]:
    """Return the ids that a window was planned for, in the store's order."""
    with folder.open(ITEMS) as stream:
        ids: list[str] = pq.ParquetFile(stream).read_row_group(number).column("object_id").to_pylist()
    return ids


def coarse_ranges(windows: Sequence[Window], items: int) -> list[tuple[str | None, str | None]]:
    """
    Join windows into larger key ranges, for passes over the whole collection.

    :param windows: in the order of keys; may be empty.
    :param items: approximate items per range.
    :returns: ranges ``(after, until]`` that cover the whole key space.
    """
    result: list[tuple[str | None, str | None]] = []
    after, weight = None, 0
    for window in windows:
        weight += window.limit
        if weight >= items and window.until is not None:
            result.append((after, window.until))
            after, weight = window.until, 0
    return [*result, (after, None)]


def read_plan(folder: Folder, token: str | None = None) -> ReindexPlan:
    """
    Read the run's plan.

    :param token: the plan that the caller expects; ``None`` for any.
    :raises ReindexError: there is no plan, or it is another one.
    """
    return ReindexPlan.from_dict(plan_value(folder, token))
