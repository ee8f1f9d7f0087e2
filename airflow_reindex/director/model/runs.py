"""Sorted runs in the staging folder: the file format, and the manifests that say which of them count."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_reindex.core.failures import Code, ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.mysql.types import Checksum, Rows

#: The sub-folder for sorted runs in a run's folder.
RUNS = "runs"
#: Row groups per file: a reader of few rows reads a short footer, and there are not too many files.
ROW_GROUPS_IN_FILE = 128
#: Row groups that are encoded or decoded at a time.
ROW_GROUPS_AT_ONCE = 16
#: The number of keys in a run's sample.
SAMPLES = 256
#: Bytes that a staged row takes at most: random keys in small runs.
STAGED_BYTES = 12


@dataclass(frozen=True)
class StagedChunk:
    """
    A chunk that was read completely, with fingerprint and state of its table at that time.

    Equal fingerprints prove that the table has not changed since; differences that ``describe_change`` finds between
    two states prove that it has; equal states prove nothing.

    :param chunk: its number.
    :param fingerprint: empty when the server cannot prove anything.
    :param checksum: of its rows as they left the worker.
    :param seconds: the time that reading took.
    """

    chunk: int
    worker: str
    fingerprint: str
    checksum: Checksum
    seconds: float = 0.0
    state: str = ""


@dataclass(frozen=True)
class StagedFile:
    """
    One sorted file, a whole run or a part of one.

    :param name: its name in the run's folder.
    :param low: its first key.
    :param high: its last key.
    :param step: the number of rows that each key of the sample stands for.
    :param sample: evenly spaced keys, ascending.
    :param bytes: its size.
    """

    name: str
    rows: int
    low: int
    high: int
    step: int
    sample: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """
    States that some files hold certain chunks, all of their rows and nothing else.

    Written last: files without a manifest do not count.

    :param name: its name in the run's folder.
    :param token: the plan that it was made for.
    :param group: the mapped task that made it.
    :param layout: the form of the rows; only runs of one layout can be merged.
    :param dropped: chunks in the files whose rows no longer count: their tables have changed since.
    """

    name: str
    token: str
    group: int
    layout: str
    chunks: tuple[StagedChunk, ...]
    files: tuple[StagedFile, ...]
    dropped: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the chunks that count."""
        return sum(chunk.checksum.rows for chunk in self.chunks)

    def without(self, dropped: Iterable[int]) -> Manifest:
        """The manifest after some of its chunks have changed."""
        gone = frozenset(dropped)
        kept = tuple(chunk for chunk in self.chunks if chunk.chunk not in gone)
        return replace(self, chunks=kept, dropped=tuple(sorted(gone)))

    def as_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON types."""
        return {
            "token": self.token,
            "group": self.group,
            "layout": self.layout,
            "chunks": [
                [c.chunk, c.worker, c.fingerprint, *astuple(c.checksum), c.seconds, c.state] for c in self.chunks
            ],
            "files": [[f.name, f.rows, f.low, f.high, f.step, f.sample, f.bytes] for f in self.files],
        }

    @classmethod
    def from_dict(cls, name: str, value: dict[str, Any]) -> Manifest:
        """Read a manifest back."""
        return cls(
            name,
            value["token"],
            value["group"],
            value["layout"],
            tuple(
                StagedChunk(chunk, worker, mark, Checksum(*sums), seconds, state)
                for chunk, worker, mark, *sums, seconds, state in value["chunks"]
            ),
            tuple(
                StagedFile(name_, rows, low, high, step, tuple(sample), size)
                for name_, rows, low, high, step, sample, size in value["files"]
            ),
        )


def new_name(group: int) -> str:
    """The name, without extension, of a run: unique to an attempt and delivery of the task; later names sort last."""
    return f"{RUNS}/g{group:04d}-{time.time_ns():016x}-{uuid4().hex[:8]}"


def group_of(name: str) -> int:
    """The number of the mapped task that made a run, from its :func:`new_name` with any extension."""
    return int(name.removeprefix(f"{RUNS}/g").split("-", 1)[0])


def write_run(folder: Folder, stem: str, rows: Rows, group_rows: int) -> tuple[StagedFile, ...]:
    """
    Sort rows by key and write them as one run: Parquet files that follow one another in the key space.

    :param stem: the beginning of the files' names.
    :param rows: in any order.
    :param group_rows: rows of a row group.
    :returns: what to put into the manifest; empty for no rows.
    :raises SpaceError: when the folder's disk is too small.
    """
    if not len(rows):
        return ()
    folder.ensure_free_space(len(rows) * STAGED_BYTES)
    order = np.argsort(rows.key)
    step = max(1, len(rows) // SAMPLES)
    # Runs of similar size would all be sampled at the same quantiles, which clumps the cuts: shift each by its name.
    first = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4]) % step
    size, files = ROW_GROUPS_IN_FILE * group_rows, []
    for number, start in enumerate(range(0, len(rows), size)):
        part = order[start : start + size]
        name = f"{stem}-{number:02d}.parquet"
        sample = tuple(rows.key[part[(first - start) % step :: step]].tolist())
        low, high = int(rows.key[part[0]]), int(rows.key[part[-1]])
        files.append(StagedFile(name, len(part), low, high, step, sample, _write(folder, name, rows, part, group_rows)))
    return tuple(files)


def _write(folder: Folder, name: str, rows: Rows, order: npt.NDArray[np.intp], group_rows: int) -> int:
    """
    Write rows in an order, some row groups at a time; returns the file's size in bytes.

    The encodings alone compress: sorted random keys lie close together, so that most bits of their differences need not
    be stored; chunks and sub-chunks are packed indices into a dictionary. A codec on top saves only 1 %.
    """
    labels = ("key", "chunk", "sub_chunk")
    schema = pa.schema([(label, pa.from_numpy_dtype(getattr(rows, label).dtype)) for label in labels])
    with folder.create(name) as stream:
        with pq.ParquetWriter(
            stream,
            schema,
            compression="none",
            use_dictionary=["chunk", "sub_chunk"],
            column_encoding={"key": "DELTA_BINARY_PACKED"},
            write_statistics=["key"],
        ) as writer:
            for start in range(0, len(order), ROW_GROUPS_AT_ONCE * group_rows):
                piece = rows.take(order[start : start + ROW_GROUPS_AT_ONCE * group_rows])
                columns = [pa.array(getattr(piece, label)) for label in labels]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=group_rows)
        return int(stream.tell())


def read_part(folder: Folder, name: str, low: int | None, high: int | None) -> Iterator[Rows]:
    """
    Read the rows of a key range from a file, some row groups at a time.

    :param low: the first key; ``None`` for no bound.
    :param high: the key after the last one; ``None`` for no bound.
    :yields: at least one row, in key order.
    """
    with folder.open(name) as stream:
        source = pq.ParquetFile(stream)
        stats = [source.metadata.row_group(i).column(0).statistics for i in range(source.metadata.num_row_groups)]
        wanted = [
            i for i, stat in enumerate(stats) if (low is None or stat.max >= low) and (high is None or stat.min < high)
        ]
        for start in range(0, len(wanted), ROW_GROUPS_AT_ONCE):
            table = source.read_row_groups(wanted[start : start + ROW_GROUPS_AT_ONCE], use_threads=False)
            rows = Rows(*(np.asarray(table.column(label)) for label in ("key", "chunk", "sub_chunk")))
            first = 0 if low is None else position(rows.key, low)
            last = len(rows) if high is None else position(rows.key, high)
            if first < last:
                yield rows.take(slice(first, last))


def position(keys: npt.NDArray[Any], key: int) -> int:
    """The number of keys in a sorted column that lie below a key."""
    limits = np.iinfo(keys.dtype)
    if not limits.min <= key <= limits.max:
        return 0 if key < limits.min else len(keys)
    # The bound must have the column's own type: a comparison of int64 with uint64 goes through float64 and loses keys.
    return int(np.searchsorted(keys, keys.dtype.type(key)))


def manifests(folder: Folder, group: int | None = None) -> Iterator[Manifest]:
    """Read the manifests in a run's folder, or those of one mapped task, in the order of their names."""
    prefix = "" if group is None else f"g{group:04d}-"
    for name in folder.names(RUNS):
        if name.endswith(".json") and name.startswith(prefix):
            value = folder.read_json(f"{RUNS}/{name}")
            if value is not None:
                yield Manifest.from_dict(f"{RUNS}/{name}", value)


def named(folder: Folder, names: Mapping[str, Iterable[int]]) -> list[Manifest]:
    """
    Read certain manifests, in the order of their names in the mapping.

    :param names: their names, each with its chunks that do not count.
    :raises ReindexError: when one is gone.
    """
    result = []
    for name, dropped in names.items():
        value = folder.read_json(name)
        if value is None:
            raise ReindexError(
                f"{name} is gone from {folder.url}: clear this run from its task 'plan' on.", code=Code.STALE_PLAN
            )
        manifest = Manifest.from_dict(name, value)
        result.append(manifest.without(dropped) if dropped else manifest)
    return result


def accounted(
    candidates: Iterable[Manifest], token: str, adopted: Mapping[str, Iterable[int]] | None = None
) -> list[Manifest]:
    """
    The manifests that count for a plan, in the order of their names: each chunk is in exactly one of them.

    A task that was delivered twice leaves two manifests for the same chunks; the first by name is taken.

    :param adopted: names of earlier runs' manifests that the plan reuses, with their chunks that do not count.
    """
    names, seen, result = adopted or {}, set[int](), []
    # The reused ones first: the plan relies on them.
    for found in sorted(candidates, key=lambda m: (m.name not in names, m.name)):
        manifest = found.without(names[found.name]) if names.get(found.name) else found
        chunks = {c.chunk for c in manifest.chunks}
        if (manifest.token == token or manifest.name in names) and not chunks & seen:
            seen |= chunks
            result.append(manifest)
    return result
