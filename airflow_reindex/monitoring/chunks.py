"""All chunks of a build with worker, state and speed; in columns, as there are many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_reindex.core.task_records import TaskRecord
from airflow_reindex.director.model.plan import PlannedChunk
from airflow_reindex.director.model.runs import Manifest

STATES = ("waiting", "reading", "staged", "adopted", "failed")
WAITING, READING, STAGED, ADOPTED, FAILED = range(len(STATES))
Column = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """
    The chunks that a plan reads, one entry per chunk.

    :param worker: index into ``workers``.
    :param rows: the number of rows, as far as known.
    :param group: the mapped task that reads it.
    :param workers: names.
    """

    chunk: Column
    worker: Column
    rows: Column
    group: Column
    workers: list[str]

    @classmethod
    def of(cls, groups: Iterable[Sequence[PlannedChunk]]) -> Planned:
        """Arrange a plan's groups, in their order, as columns."""
        names: dict[str, int] = {}
        found = [
            (chunk.chunk, names.setdefault(chunk.workers[0], len(names)), chunk.rows, number)
            for number, group in enumerate(groups)
            for chunk in group
        ]
        columns = np.array(found, dtype=np.int64).reshape(-1, 4).T
        return cls(chunk=columns[0], worker=columns[1], rows=columns[2], group=columns[3], workers=list(names))


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """
    The chunks of a build, one entry per chunk.

    :param chunk: chunk numbers, ascending.
    :param worker: who reads or has read it, as an index into ``workers``.
    :param state: index into :data:`STATES`.
    :param rows: as planned until the chunk is read.
    :param seconds: reading time; 0 when unknown.
    :param group: the mapped task that reads it; -1 for a chunk reused from an earlier run.
    :param workers: names.
    """

    chunk: Column
    worker: Column
    state: Column
    rows: Column
    seconds: Column
    group: Column
    workers: list[str]

    @property
    def rate(self) -> Column:
        """Rows per second while the chunk was read; NaN where unknown."""
        read = (self.state == STAGED) & (self.seconds > 0)
        rates: Column = np.divide(self.rows, self.seconds, out=np.full(len(self.rows), np.nan), where=read)
        return rates

    def counts(self) -> dict[str, int]:
        """Number of chunks by state."""
        return dict(zip(STATES, np.bincount(self.state, minlength=len(STATES)).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """The columns as JSON-compatible values."""
        names = ("chunk", "worker", "state", "rows", "seconds", "group")
        return {"workers": self.workers, **{name: getattr(self, name).tolist() for name in names}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Chunks:
        """Read the columns from :meth:`as_dict`."""
        kinds = {"seconds": np.float64}
        columns = {n: np.array(v, dtype=kinds.get(n, np.int64)) for n, v in value.items() if n != "workers"}
        return cls(workers=list(value["workers"]), **columns)

    def shown(self) -> dict[str, Any]:
        """The columns of the heat map."""
        rates = [None if np.isnan(rate) else round(rate) for rate in self.rate.tolist()]
        names = ("chunk", "worker", "state", "rows")
        return {
            "workers": self.workers,
            "states": STATES,
            **{name: getattr(self, name).tolist() for name in names},
            "rate": rates,
        }

    def by_worker(self, spans: Mapping[int, float], under_way: Mapping[int, int]) -> list[dict[str, Any]]:
        """
        Return each worker's chunks, rows and rate, ordered by name.

        :param spans: seconds with a running extract task, by worker index.
        :param under_way: rows read of chunks that are not staged yet, by worker index.
        """
        size = len(self.workers)
        staged = np.isin(self.state, (STAGED, ADOPTED))
        read = self.state == STAGED

        def count(which: Column, weights: Column | None = None) -> list[int]:
            picked = None if weights is None else weights[which]
            return np.bincount(self.worker[which], picked, size).astype(np.int64).tolist()  # type: ignore[no-any-return]

        everything = np.ones(len(self.worker), dtype=bool)
        more = np.array([under_way.get(n, 0) for n in range(size)], dtype=np.int64)
        rows, fresh = (np.array(count(which, self.rows), np.int64) + more for which in (staged, read))
        columns = (count(everything), count(staged), count(self.state == FAILED), rows.tolist())
        return [
            {
                "name": name,
                **dict(zip(("chunks", "staged", "failed", "rows"), figures, strict=True)),
                "rate": round(fresh[n] / spans[n]) if spans.get(n) and fresh[n] else None,
            }
            for n, (name, *figures) in sorted(
                enumerate(zip(self.workers, *columns, strict=True)), key=lambda entry: entry[1][0]
            )
        ]


def look_at_chunks(
    planned: Planned,
    staged: Sequence[Manifest],
    adopted: Mapping[str, Any],
    records: Sequence[TaskRecord],
    running: Iterable[int],
    *,
    live: bool,
) -> Chunks:
    """
    Determine each chunk's state.

    :param staged: the valid manifests.
    :param adopted: manifests reused from earlier runs, by name.
    :param records: of the current plan.
    :param running: map indexes of running extract tasks.
    :param live: whether the run has not ended; otherwise chunks that are not staged have failed.
    """
    names = {name: number for number, name in enumerate(planned.workers)}
    found = np.array(
        [
            (c.chunk, names.setdefault(c.worker, len(names)), c.checksum.rows, c.seconds, manifest.name in adopted)
            for manifest in staged
            for c in manifest.chunks
        ],
        dtype=np.float64,
    ).reshape(-1, 5)
    numbers = found[:, 0].astype(np.int64)
    chunk = np.union1d(planned.chunk, numbers)
    where, there = np.searchsorted(chunk, planned.chunk), np.searchsorted(chunk, numbers)
    size = len(chunk)
    worker, rows, group = np.zeros(size, np.int64), np.zeros(size, np.int64), np.full(size, -1, np.int64)
    seconds, state = np.zeros(size), np.full(size, WAITING if live else FAILED, np.int64)
    worker[where], rows[where], group[where] = planned.worker, planned.rows, planned.group
    if live:
        state[np.isin(group, list(running)) & (group >= 0)] = READING
        state[np.isin(chunk, _failed(records, "extract"))] = FAILED
    state[there] = np.where(found[:, 4] > 0, ADOPTED, STAGED)
    worker[there], rows[there], seconds[there] = found[:, 1], found[:, 2], found[:, 3]
    # Staged, but with duplicate keys.
    state[np.isin(chunk, _failed(records, "load"))] = FAILED
    return Chunks(chunk=chunk, worker=worker, state=state, rows=rows, seconds=seconds, group=group, workers=list(names))


def _failed(records: Iterable[TaskRecord], step: str) -> list[int]:
    return [failure.chunk for record in records if record.task == step for failure in record.failures]
