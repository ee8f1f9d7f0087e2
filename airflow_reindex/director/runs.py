"""Sorted runs in the staging folder: the file format, and the manifests that say which of them count."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.columns import Checksum, Rows

#: Where a run's folder keeps them.
RUNS = "runs"
#: Rows in a Parquet row group: what a merge holds in memory of each run.
ROW_GROUP_ROWS = 32_768
#: How many keys of each file go into its sample.
SAMPLES = 256


@dataclass(frozen=True)
class StagedChunk:
    """
    A chunk that was read whole.

    :param chunk: its number.
    :param worker: the worker it was read from.
    :param fingerprint: the state of its table, as planned.
    :param checksum: of its rows as they left the worker.
    """

    chunk: int
    worker: str
    fingerprint: str
    checksum: Checksum


@dataclass(frozen=True)
class StagedFile:
    """
    One sorted file.

    :param name: its name in the run's folder.
    :param rows: rows in it.
    :param step: rows that each key of the sample stands for.
    :param sample: evenly spaced keys, ascending.
    :param bytes: its size.
    """

    name: str
    rows: int
    step: int
    sample: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """
    Says that some files hold some chunks, all of their rows and nothing else. Written last: without it no file counts.

    :param name: its name in the run's folder.
    :param token: the plan it was made for.
    :param group: the mapped task that made it.
    :param layout: what the rows look like; runs of another layout cannot be merged with these.
    :param chunks: the chunks.
    :param files: the files.
    """

    name: str
    token: str
    group: int
    layout: str
    chunks: tuple[StagedChunk, ...]
    files: tuple[StagedFile, ...]

    def as_dict(self) -> dict[str, Any]:
        """
        The manifest as JSON can hold it.

        :returns: a dict of plain types.
        """
        return {
            "token": self.token,
            "group": self.group,
            "layout": self.layout,
            "chunks": [
                [c.chunk, c.worker, c.fingerprint, c.checksum.rows, c.checksum.keys, c.checksum.mix]
                for c in self.chunks
            ],
            "files": [[f.name, f.rows, f.step, f.sample, f.bytes] for f in self.files],
        }

    @classmethod
    def from_dict(cls, name: str, value: dict[str, Any]) -> Manifest:
        """
        Read a manifest back.

        :param name: its file name.
        :param value: what :meth:`as_dict` gave.
        :returns: the manifest.
        """
        return cls(
            name,
            value["token"],
            value["group"],
            value["layout"],
            tuple(StagedChunk(c, w, mark, Checksum(*sums)) for c, w, mark, *sums in value["chunks"]),
            tuple(StagedFile(n, rows, step, tuple(sample), size) for n, rows, step, sample, size in value["files"]),
        )


def new_name(group: int) -> str:
    """
    A name for a run that no other try or delivery of the task uses. Later names sort behind earlier ones.

    :param group: the mapped task's number.
    :returns: the name below the run's folder, without an ending.
    """
    return f"{RUNS}/g{group:04d}-{time.time_ns():016x}-{uuid4().hex[:8]}"


def write_file(folder: Folder, name: str, rows: Rows) -> StagedFile:
    """
    Sort rows by key and write them as Parquet.

    The keys are delta-encoded: sorted random keys lie close together, so that most of their bits need not be stored.

    :param folder: the run's folder.
    :param name: the file's name.
    :param rows: the rows, in any order, at least one.
    :returns: what to put into the manifest.
    """
    ordered = rows.sorted()
    columns = {"key": ordered.key, "chunk": ordered.chunk, "sub_chunk": ordered.sub_chunk}
    with folder.create(name) as stream:
        pq.write_table(
            pa.table({label: pa.array(column) for label, column in columns.items()}),
            stream,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=1,
            use_dictionary=["chunk", "sub_chunk"],
            column_encoding={"key": "DELTA_BINARY_PACKED"},
            write_statistics=["key"],
        )
        size = stream.tell()
    step = max(1, len(ordered) // SAMPLES)
    # Runs of like size would all be sampled at the same quantiles, which clumps the cuts: shift each by its name.
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % step
    sample = tuple(int(key) for key in ordered.key[first::step])
    return StagedFile(name, len(ordered), step, sample, size)


def read_groups(folder: Folder, name: str, metadata: pq.FileMetaData, groups: Sequence[int]) -> Rows:
    """
    Read some row groups of a file.

    :param folder: the run's folder.
    :param name: the file's name.
    :param metadata: its footer, read before.
    :param groups: the row groups' numbers, ascending.
    :returns: their rows, in key order.
    """
    with folder.open(name) as stream:
        table = pq.ParquetFile(stream, metadata=metadata).read_row_groups(groups, use_threads=False)
    return Rows(*(np.asarray(table.column(label)) for label in ("key", "chunk", "sub_chunk")))


def manifests(folder: Folder, group: int | None = None) -> Iterator[Manifest]:
    """
    Read the manifests in a run's folder, in the order of their names.

    :param folder: the run's folder.
    :param group: only those of this mapped task.
    :yields: each manifest.
    """
    prefix = "" if group is None else f"g{group:04d}-"
    for name in folder.names(RUNS):
        if name.endswith(".json") and name.startswith(prefix):
            value = folder.read_json(f"{RUNS}/{name}")
            if value is not None:
                yield Manifest.from_dict(f"{RUNS}/{name}", value)


def named(folder: Folder, names: Iterable[str]) -> list[Manifest]:
    """
    Read certain manifests.

    :param folder: the run's folder.
    :param names: their names.
    :returns: the manifests, in the order of the names.
    :raises ReindexError: one is gone.
    """
    result = []
    for name in names:
        value = folder.read_json(name)
        if value is None:
            raise ReindexError(f"{name} is gone from {folder.url}: clear this run from its task 'plan' on.")
        result.append(Manifest.from_dict(name, value))
    return result


def accounted(candidates: Iterable[Manifest], token: str, adopted: Iterable[str]) -> list[Manifest]:
    """
    The manifests that count for a plan: each chunk is in exactly one of them.

    A task that was delivered twice leaves two manifests for the same chunks; the first by name is taken.

    :param candidates: the manifests found.
    :param token: the plan's token.
    :param adopted: names of earlier runs' manifests that the plan adopted.
    :returns: the manifests to use, in the order of their names.
    """
    names, seen, result = set(adopted), set[int](), []
    # The adopted ones first: the plan counts on them.
    for manifest in sorted(candidates, key=lambda m: (m.name not in names, m.name)):
        chunks = {c.chunk for c in manifest.chunks}
        if (manifest.token == token or manifest.name in names) and not chunks & seen:
            seen |= chunks
            result.append(manifest)
    return result
