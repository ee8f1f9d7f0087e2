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
from airflow_reindex.director import merge, run_buffer
from airflow_reindex.director.columns import Checksum, Rows
from airflow_reindex.director.inbox import write_text
from airflow_reindex.director.merge import Merger
from airflow_reindex.director.run_buffer import RunBuffer
from airflow_reindex.director.runs import StagedChunk, manifests
from airflow_reindex.director.split import Source, make_split
from tests.core.samples import make_plan

MEMORY = 512 << 20
BATCH = 50_000


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # The resource usage of a process begins with that of the process that started it.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def keys_of(kind: str, rows: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Keys of a chunk, in batches: random, all in one narrow range, or sequential."""
    random = np.random.default_rng(1)
    for start in range(0, rows, BATCH):
        if kind == "sequential":
            yield np.arange(start, start + BATCH)
        elif kind == "narrow":
            # One outlier stretches the key space that all others share a corner of.
            keys = random.permutation(np.arange(start, start + BATCH)) + (1 << 61)
            keys[0] = start
            yield keys
        else:
            yield random.integers(0, 1 << 62, BATCH)


def stage(folder: Folder, kind: str, rows: int, runs: int) -> None:
    """What an extract task does with the rows of one chunk, or of several."""
    # Many runs: as if so many tasks had staged a part each.
    capacity = rows_that_fit(MEMORY, run_buffer.BYTES_PER_ROW) if runs == 1 else rows // runs
    with RunBuffer(folder, make_plan(group_rows=4_096), 0, capacity) as buffer:
        for chunk, keys in enumerate(keys_of(kind, rows)):
            buffer.add(Rows(keys, np.full(BATCH, 7, np.int32), (keys % 600).astype(np.int32)))
            if runs > 1:
                buffer.end_chunk(StagedChunk(chunk, "worker-1", "", Checksum(BATCH)))
        if runs == 1:
            buffer.end_chunk(StagedChunk(7, "worker-1", "", Checksum(rows)))
        buffer.flush()


def main(folder: Folder, kind: str, rows: int, runs: int) -> None:
    """Stage rows, load them, and print the peak and the rows that came out."""
    stage(folder, kind, rows, runs)
    staged = list(manifests(folder))
    merger = Merger(folder, Source.of(staged), rows_that_fit(MEMORY, merge.BYTES_PER_ROW))
    found = 0
    with tempfile.TemporaryDirectory() as inbox:
        # One range, larger than memory.
        for key_range in make_split("token", staged, 10 * rows).ranges:
            for piece in merger.pieces(key_range):
                write_text(piece.rows, Path(inbox) / "slice.tsv")
                found += len(piece.rows)
    files = sum(len(manifest.files) for manifest in staged)
    sys.stdout.write(f"{peak():.0f} {files} {found}\n")


if __name__ == "__main__":
    main(Folder.at(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
