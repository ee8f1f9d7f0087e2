"""A process of its own, whose peak memory tells what extracting and merging a large chunk take."""

from __future__ import annotations

import resource
import sys

import numpy as np

# What an empty task has loaded too.
import airflow_reindex.operators.director  # noqa: F401
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.columns import Checksum, Rows
from airflow_reindex.director.extract import FETCH_ROWS, RunBuffer
from airflow_reindex.director.merge import merged
from airflow_reindex.director.runs import StagedChunk, manifests
from airflow_reindex.director.split import make_split
from tests.core.samples import make_plan


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main(folder: Folder, rows: int) -> None:
    """Stage one chunk of random keys, merge it, and print the peaks and the rows that came out."""
    empty = peak()
    random = np.random.default_rng(1)
    buffer = RunBuffer(folder, make_plan(), 0, 4_000_000)
    for _ in range(rows // FETCH_ROWS):
        keys = random.integers(0, 1 << 62, FETCH_ROWS)
        buffer.add(Rows(keys, np.full(FETCH_ROWS, 7, np.int32), random.integers(0, 600, FETCH_ROWS, dtype=np.int32)))
    buffer.end_chunk(StagedChunk(7, "worker-1", "", Checksum()))
    buffer.flush()
    staged = list(manifests(folder))
    split = make_split("token", staged, 5_000_000)
    names = [file.name for manifest in staged for file in manifest.files]
    found = sum(len(part) for r in split.ranges for part in merged(folder, names, r) if part is not None)
    sys.stdout.write(f"{peak() - empty:.0f} {found}\n")


if __name__ == "__main__":
    main(Folder.at(sys.argv[1]), int(sys.argv[2]))
