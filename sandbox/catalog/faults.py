"""Faults that a catalog can be given on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sandbox.catalog.spec import CatalogSpec
from sandbox.catalog.sphere import Ints

_CHUNKS_WITH_NULLS = 5


@dataclass(frozen=True)
class Faults:
    """What is wrong with a catalog, and where.

    :param missing: chunks whose table is missing
    :param no_sub_chunk: chunks whose table lacks the sub-chunk column
    :param duplicates_within: key to the chunk that has it twice
    :param duplicates_across: key to the two chunks that have it
    :param null_keys: chunk to its number of rows without a key
    """

    missing: tuple[int, ...] = ()
    no_sub_chunk: tuple[int, ...] = ()
    duplicates_within: dict[int, int] = field(default_factory=dict)
    duplicates_across: dict[int, tuple[int, int]] = field(default_factory=dict)
    null_keys: dict[int, int] = field(default_factory=dict)


class _Rows:
    """Hands out the rows of chunks in random order, each row once, so that no fault hides another."""

    def __init__(self, starts: Ints, chunks: Ints, random: np.random.Generator) -> None:
        self._chunks = chunks.tolist()
        self._left = {
            i: (starts[i] + random.permutation(int(starts[i + 1] - starts[i]))).tolist() for i in self._chunks
        }
        self._turn = 0

    def take(self, count: int, among: int | None = None, other_than: int = -1) -> tuple[int, list[int]]:
        """So many rows of the chunk whose turn it is, of the first ``among`` chunks; returns chunk and rows."""
        chunks = self._chunks[:among]
        for _ in chunks:
            chunk = chunks[self._turn % len(chunks)]
            self._turn += 1
            if chunk != other_than and len(self._left[chunk]) >= count:
                return chunk, [self._left[chunk].pop() for _ in range(count)]
        raise ValueError("the catalog has too few rows for so many faults")


def place(
    spec: CatalogSpec,
    chunk_ids: Ints,
    starts: Ints,
    keys: Ints,
    is_null: NDArray[np.bool_],
    random: np.random.Generator,
) -> Faults:
    """Choose where the faults go; faults of rows are put into whole chunk tables only.

    :param spec: how many faults of which kind
    :param chunk_ids: shape ``(chunks,)``
    :param starts: rows of chunk ``i`` are ``starts[i]`` to ``starts[i + 1]``; shape ``(chunks + 1,)``
    :param keys: keys of the rows, changed in place to make duplicates
    :param is_null: whether a row's key is missing, changed in place
    :param random: source of chance
    :returns: what was put where
    :raises ValueError: if there are too few chunks or rows
    """
    filled = random.permutation(np.flatnonzero(np.diff(starts) >= 2))
    broken, whole = np.split(filled, [spec.missing + spec.no_sub_chunk])
    if broken.size < spec.missing + spec.no_sub_chunk:
        raise ValueError("the catalog has too few chunks with two or more rows for so many faults")
    missing, no_sub_chunk = np.split(broken, [spec.missing])
    rows = _Rows(starts, whole, random)

    # First those that few chunks have to bear, so that the others do not use up their rows.
    nulls: dict[int, int] = {}
    for _ in range(spec.null_keys):
        chunk, (row,) = rows.take(1, among=_CHUNKS_WITH_NULLS)
        is_null[row] = True
        nulls[int(chunk_ids[chunk])] = nulls.get(int(chunk_ids[chunk]), 0) + 1
    within: dict[int, int] = {}
    for _ in range(spec.duplicates_within):
        chunk, (source, target) = rows.take(2)
        keys[target] = keys[source]
        within[int(keys[source])] = int(chunk_ids[chunk])
    across: dict[int, tuple[int, int]] = {}
    for _ in range(spec.duplicates_across):
        one, (source,) = rows.take(1)
        other, (target,) = rows.take(1, other_than=one)
        keys[target] = keys[source]
        across[int(keys[source])] = (int(chunk_ids[one]), int(chunk_ids[other]))
    return Faults(_sorted(chunk_ids[missing]), _sorted(chunk_ids[no_sub_chunk]), within, across, nulls)


def _sorted(chunk_ids: Ints) -> tuple[int, ...]:
    return tuple(sorted(chunk_ids.tolist()))
