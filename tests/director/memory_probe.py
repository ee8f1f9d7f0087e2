"""A process of its own, whose peak memory tells what extracting and merging a large chunk take."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# What an empty task has loaded too.
import airflow_reindex.operators.director  # noqa: F401
from airflow_reindex.core.memory import rows_that_fit
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.load import merge
from airflow_reindex.director.load.merge import Merger
from airflow_reindex.director.model.plan import row_group_rows
from airflow_reindex.director.model.runs import StagedChunk, manifests
from airflow_reindex.director.model.split import RunFiles, make_split
from airflow_reindex.director.mysql.bulk_load import write_text
from airflow_reindex.director.mysql.types import Checksum, Rows
from tests.support.samples import make_plan

MEMORY = 512 << 20
BATCH = 50_000
RUN_ROWS, WINDOW_ROWS = (rows_that_fit(MEMORY, m.BYTES_PER_ROW) for m in (run_buffer, merge))


def peak() -> float:
    """Peak memory of this process so far, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # The resource usage of a process begins with that of the process that started it.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


def keys_of(kind: str, rows: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Keys of a catalog, in batches: random, all in one narrow range, sequential, or one in all rows."""
    random = np.random.default_rng(1)
    for start in range(0, rows, BATCH):
        if kind == "sequential":
            yield np.arange(start, start + BATCH)
        elif kind == "narrow":
            # One outlier stretches the key space that all others share a corner of.
            keys = random.integers(1 << 61, (1 << 61) + (1 << 23), BATCH)
            keys[0] = start
            yield keys
        elif kind == "one":
            yield np.full(BATCH, 7)
        else:
            yield random.integers(0, 1 << 62, BATCH)


def stage(folder: Folder, kind: str, rows: int, capacity: int, first: int) -> None:
    """What an extract task does with the rows of a large chunk, and of small ones, a batch each."""
    group_rows = row_group_rows(rows, RUN_ROWS, WINDOW_ROWS)
    with RunBuffer(folder, make_plan(group_rows=group_rows), 0, capacity) as buffer:
        chunk, size = 0, 0
        for keys in keys_of(kind, rows):
            buffer.add(Rows(keys, np.full(BATCH, chunk, np.int32), (keys % 600).astype(np.int32)))
            size += BATCH
            if chunk or size >= first:
                buffer.end_chunk(StagedChunk(chunk, "worker-1", "", Checksum(size)))
                chunk, size = chunk + 1, 0
        buffer.flush()


def main(folder: Folder, kind: str, rows: int, capacity: int, first: int) -> None:
    """Stage rows, load them, and print how much memory was there, and taken in either step, and what came out."""
    before = peak()
    stage(folder, kind, rows, min(capacity, RUN_ROWS), first)
    after = peak()
    staged = list(manifests(folder))
    merger = Merger(folder, RunFiles.of(staged), WINDOW_ROWS)
    found = 0
    with tempfile.TemporaryDirectory() as transport:
        # One range, larger than memory.
        for key_range in make_split("token", staged, 10 * rows).ranges:
            for piece in merger.pieces(key_range):
                write_text(piece.rows, Path(transport) / "slice.tsv")
                found += len(piece.rows)
    files = sum(len(manifest.files) for manifest in staged)
    sys.stdout.write(f"{before:.0f} {after:.0f} {peak():.0f} {files} {found}\n")


if __name__ == "__main__":
    main(Folder.at(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
