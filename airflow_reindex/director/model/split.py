"""Division of the key space into ranges of about equal weight and their slices, from the runs' samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_reindex.core.windows import MAX_MAPPED_TASKS, contiguous_groups, task_count
from airflow_reindex.director.model.runs import Manifest

#: Rows of one slice, that is of one transaction: keeps rollback and purge short.
SLICE_ROWS = 250_000
#: The least number of ranges, as long as each has some rows: one for each connection that loads at the same time.
LEAST_RANGES = 4


@dataclass(frozen=True)
class KeyRange:
    """
    A mapped load task's part of the key space.

    :param number: ascending with the keys.
    :param bounds: the slices' bounds; slice i holds the keys ``bounds[i] <= key < bounds[i + 1]``. ``None`` at either
        end means no bound.
    :param rows: an estimate.
    """

    number: int
    bounds: tuple[int | None, ...]
    rows: int

    @property
    def label(self) -> str:
        """A short name for the mapped task, such as ``keys [1200, 3400)``."""
        low, high = self.bounds[0], self.bounds[-1]
        return f"keys [{'min' if low is None else low}, {'max' if high is None else high})"

    def slices(self) -> list[tuple[int | None, int | None]]:
        """The slices as pairs of lower bound (included) and upper bound (excluded)."""
        return list(zip(self.bounds[:-1], self.bounds[1:], strict=True))


class RunFiles:
    """
    The sorted files that a split covers; lies in the run's folder as ``files.parquet``.

    :param table: columns ``name``, ``rows``, ``low`` and ``high`` (first and last key), ``dropped`` (chunks whose rows
        in the file do not count).
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._low, self._high = (np.asarray(table.column(name)) for name in ("low", "high"))

    @classmethod
    def of(cls, staged: Iterable[Manifest]) -> RunFiles:
        """The files of the manifests that count."""
        files = [(file, manifest.dropped) for manifest in staged for file in manifest.files]
        kind = key_type(max((file.high for file, _ in files), default=0))
        return cls(
            pa.table(
                {
                    "name": pa.array([file.name for file, _ in files], pa.string()),
                    "rows": pa.array([file.rows for file, _ in files], pa.int64()),
                    "low": pa.array(np.array([file.low for file, _ in files], kind)),
                    "high": pa.array(np.array([file.high for file, _ in files], kind)),
                    "dropped": pa.array([dropped for _, dropped in files], pa.list_(pa.int32())),
                }
            )
        )

    def between(self, low: int | None, high: int | None) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
        """
        The files that have keys in a range.

        :param low: the first key; ``None`` for no bound.
        :param high: the key after the last one; ``None`` for no bound.
        :yields: a file's name, and the chunks whose rows in it do not count.
        """
        kind = self._low.dtype.type
        wanted = np.ones(len(self._low), bool)
        if low is not None:
            # A bound above the type's largest key is beyond all files.
            wanted &= (self._high >= kind(low)) if low <= np.iinfo(kind).max else False
        if high is not None:
            # The last key of a type has no successor in it.
            wanted &= (self._low <= kind(high - 1)) if high > np.iinfo(kind).min else False
        for row in np.flatnonzero(wanted).tolist():
            yield self.table["name"][row].as_py(), np.asarray(self.table["dropped"][row].values, np.int32)


@dataclass(frozen=True)
class Split:
    """
    How the rows of a plan are loaded; lies in the run's folder as ``split.json``.

    :param build: distinguishes the shadow table of this split from those of earlier splits of the same plan.
    :param manifests: the manifests whose rows it covers, each with its chunks that do not count.
    :param ranges: ascending, without gaps.
    """

    build: str
    manifests: dict[str, tuple[int, ...]]
    rows: int
    ranges: tuple[KeyRange, ...]

    def as_dict(self) -> dict[str, Any]:
        """The split as plain JSON types."""
        ranges = [[r.number, r.bounds, r.rows] for r in self.ranges]
        return {**vars(self), "ranges": ranges}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Split:
        """Read a split back."""
        ranges = tuple(KeyRange(number, tuple(bounds), rows) for number, bounds, rows in value["ranges"])
        names = {name: tuple(dropped) for name, dropped in value["manifests"].items()}
        return cls(value["build"], names, value["rows"], ranges)


def make_split(token: str, staged: Sequence[Manifest], rows_per_task: int, slice_rows: int = SLICE_ROWS) -> Split:
    """
    Cut the key space; without rows the split has no ranges.

    The result is a function of the staged runs and the sizes: a split made again from the same runs is the same, so
    that slices loaded for it still count; from other runs it has another ``build``, and nothing of the old one is used.

    :param rows_per_task: rows that one load task should load.
    :param slice_rows: about the number of rows in one transaction.
    """
    names = {manifest.name: manifest.dropped for manifest in sorted(staged, key=lambda m: m.name)}
    rows = sum(manifest.rows for manifest in staged)
    if not rows:
        return Split(_build(token, names, ()), names, 0, ())
    cuts = quantiles(staged, -(-rows // slice_rows))
    bounds: list[int | None] = [None, *cuts, None]
    slices = len(bounds) - 1
    tasks = task_count(rows, rows_per_task, least=min(LEAST_RANGES, slices), most=MAX_MAPPED_TASKS)
    ranges = tuple(
        KeyRange(number, tuple(bounds[group.start : group.stop + 1]), rows * len(group) // slices)
        for number, group in enumerate(contiguous_groups([1] * slices, tasks))
    )
    return Split(_build(token, names, ranges), names, rows, ranges)


def _build(token: str, names: Iterable[str], ranges: Sequence[KeyRange]) -> str:
    """Hash of a split: loaded slices are known by range and slice number, which mean other rows with other bounds."""
    bounds = (str(key_range.bounds) for key_range in ranges)
    return hashlib.sha256("\n".join((token, *names, *bounds)).encode()).hexdigest()[:8]


def quantiles(staged: Sequence[Manifest], parts: int) -> list[int]:
    """
    At most ``parts - 1`` distinct keys, ascending, that cut the rows into parts of about equal size.

    A very frequent key makes fewer, larger parts.
    """
    files = [file for manifest in staged for file in manifest.files if file.sample]
    if not files:
        return []
    kind = key_type(max((file.sample[-1] for file in files), default=0))
    keys = np.concatenate([np.array(file.sample, kind) for file in files])
    weights = np.concatenate([np.full(len(file.sample), file.step, np.int64) for file in files])
    order = np.argsort(keys, kind="stable")
    reached = np.cumsum(weights[order])
    targets = np.arange(1, parts) * (reached[-1] / parts)
    # The very first key is no cut: nothing lies below it.
    cuts = np.unique(keys[order][np.minimum(np.searchsorted(reached, targets), len(order) - 1)])
    return [int(cut) for cut in cuts if cut > keys[order[0]]]


def key_type(highest: int) -> type[np.integer[Any]]:
    """The type for keys up to the highest one: int64 where it fits, otherwise uint64."""
    return np.uint64 if highest > np.iinfo(np.int64).max else np.int64
