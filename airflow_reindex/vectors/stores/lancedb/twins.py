"""Vectors shared by several parts, found by their hashes in batches."""

from __future__ import annotations

import numpy as np
from lancedb.table import Table
from numpy.typing import NDArray

from airflow_reindex.vectors.model.collection import Twins, Vectors

_PARTS = "original_id IS NULL AND is_average IS NOT TRUE AND vector IS NOT NULL"
#: Vectors hashed at a time.
_BATCH = 8192


def find_twins(table: Table, dimensions: int, size: int) -> Twins:
    """
    Count the parts whose vector another part has, too, and draw ``size`` pairs of them.

    All vectors are read once; 16 bytes per part are kept in memory.
    """
    factors = np.random.default_rng(0).integers(2**63, size=dimensions, dtype=np.uint64) * 2 + 1
    hashes, rows = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    query = table.search().where(_PARTS).select(["vector"]).with_row_id(True).limit(None)
    for batch in query.to_batches(batch_size=_BATCH):
        if len(batch):
            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            hashes.append(_hash(np.asarray(flat, np.float32).reshape(len(batch), dimensions), factors))
            rows.append(batch.column("_rowid").to_numpy())
    return _pairs(table, np.concatenate(hashes), np.concatenate(rows), size)


def _hash(vectors: Vectors, factors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each vector: the sum of its bits, each with a factor of its own, modulo 2 to the 64th."""
    return np.ascontiguousarray(vectors).view(np.uint32).astype(np.uint64) @ factors


def _pairs(table: Table, hashes: NDArray[np.uint64], rows: NDArray[np.uint64], size: int) -> Twins:
    order = np.argsort(hashes, kind="stable")
    _, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    if not len(several):
        return Twins()
    shared = int(counts[several].sum())
    largest = several[np.argsort(-counts[several], kind="stable")[:size]]
    firsts, lasts = order[starts[largest]], order[starts[largest] + counts[largest] - 1]
    # Matched by row id, as the order of taken rows is not guaranteed.
    wanted = np.concatenate([rows[firsts], rows[lasts]])
    taken = table.take_row_ids(wanted.tolist()).select(["part_id", "object_id"]).with_row_id().to_arrow()
    named = {row["_rowid"]: (row["part_id"], row["object_id"]) for row in taken.to_pylist()}
    return Twins(
        parts=len(hashes),
        shared=shared,
        pairs=[
            (int(counts[group]), named[first], named[last])
            for group, first, last in zip(largest, rows[firsts].tolist(), rows[lasts].tolist(), strict=True)
            if first in named and last in named
        ],
    )
