"""Which rows a catalog has and where, computed from its spec alone."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sandbox.catalog.faults import Faults, place
from sandbox.catalog.spec import CatalogSpec
from sandbox.catalog.sphere import Floats, Ints, Sphere

SPHERE = Sphere(stripes=340, sub_stripes=3)
_OVERLAP_SHARE = 0.1
_EDGE = 1e-6  # keeps rows off the borders of their chunk, where rounding would decide


@dataclass(frozen=True)
class Truth:
    """The rows of a catalog's director table, chunk by chunk, as its chunk tables hold them.

    :param keys: director keys, int64, shape ``(rows,)``; without meaning where ``is_null``
    :param chunk_ids: shape ``(rows,)``
    :param sub_chunk_ids: shape ``(rows,)``
    :param is_null: whether the row has no key, shape ``(rows,)``
    """

    keys: Ints
    chunk_ids: Ints
    sub_chunk_ids: Ints
    is_null: NDArray[np.bool_]

    def index_rows(self, without_chunks: Collection[int] = ()) -> tuple[Ints, Ints, Ints]:
        """What a complete index holds.

        :param without_chunks: leave out these chunks
        :returns: keys, chunk ids and sub-chunk ids of the rows with a key, ordered by key, then by chunk
        """
        use = ~self.is_null & ~np.isin(self.chunk_ids, list(without_chunks))
        keys, chunk_ids, sub_chunk_ids = self.keys[use], self.chunk_ids[use], self.sub_chunk_ids[use]
        order = np.lexsort((sub_chunk_ids, chunk_ids, keys))
        return keys[order], chunk_ids[order], sub_chunk_ids[order]


@dataclass(frozen=True)
class Overlap:
    """The rows of the overlap tables, chunk by chunk: copies of rows of a neighbour.

    :param starts: rows of chunk ``i`` are ``starts[i]`` to ``starts[i + 1]``; shape ``(chunks + 1,)``
    :param source: of which row of the director table each is a copy, shape ``(n,)``
    :param keys: its key: that of the source, or in about half of the chunks one that no chunk table has
    """

    starts: Ints
    source: Ints
    keys: Ints


@dataclass(frozen=True)
class Layout:
    """All rows of a catalog, ordered by chunk.

    :param spec: what was asked for
    :param chunk_ids: ascending, shape ``(chunks,)``
    :param starts: rows of chunk ``i`` are ``starts[i]`` to ``starts[i + 1]``; shape ``(chunks + 1,)``
    :param truth: the rows that an index is made of
    :param ra: right ascension in degrees, shape ``(rows,)``
    :param decl: declination in degrees, shape ``(rows,)``
    :param overlap: the rows of the overlap tables
    :param faults: what is wrong, and where
    """

    spec: CatalogSpec
    chunk_ids: Ints
    starts: Ints
    truth: Truth
    ra: Floats
    decl: Floats
    overlap: Overlap
    faults: Faults

    @property
    def counts(self) -> Ints:
        """Rows of each chunk, shape ``(chunks,)``."""
        return np.diff(self.starts)


def chance(spec: CatalogSpec, purpose: str) -> np.random.Generator:
    """A source of chance that depends on the seed and the purpose only.

    :param spec: the catalog
    :param purpose: any text; one purpose does not disturb the others
    :returns: the generator
    """
    return np.random.default_rng([spec.seed, zlib.crc32(purpose.encode())])


def lay_out(spec: CatalogSpec) -> Layout:
    """Compute a catalog.

    :param spec: what it should be like
    :returns: its rows
    :raises ValueError: if it has too few chunks or rows for its faults
    """
    chunk_ids, distance = SPHERE.patches(spec.chunks, chance(spec, "patches"))
    counts = _row_counts(spec, distance)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    chunk_of_row = np.repeat(chunk_ids, counts)
    ra, decl = _positions(chunk_of_row, chance(spec, "positions"))
    source, source_starts, foreign = _overlap_rows(spec, starts)
    drawn = _distinct_keys(spec.rows + int(foreign.sum()), chance(spec, "keys"))
    keys, spare = drawn[: spec.rows], drawn[spec.rows :]
    overlap_keys = keys[source]
    overlap_keys[foreign] = spare
    is_null = np.zeros(spec.rows, dtype=bool)
    faults = place(spec, chunk_ids, starts, keys, is_null, chance(spec, "faults"))
    truth = Truth(keys, chunk_of_row, SPHERE.locate(ra, decl)[1], is_null)
    overlap = Overlap(source_starts, source, overlap_keys)
    return Layout(spec, chunk_ids, starts, truth, ra, decl, overlap, faults)


def _row_counts(spec: CatalogSpec, distance: Floats) -> Ints:
    """Very uneven numbers of rows; the chunks at the rim of the fields are the empty ones."""
    random = chance(spec, "counts")
    filled = np.sort(np.argsort(distance, kind="stable")[: spec.chunks - spec.empty_count])
    counts = np.zeros(spec.chunks, dtype=np.int64)
    if not filled.size:
        return counts
    weights = random.lognormal(0.0, 1.0, filled.size)
    crowded = random.choice(filled.size, max(1, filled.size // 200), replace=False)
    weights[crowded] *= 8.0
    at_least = 1 if spec.rows >= filled.size else 0
    counts[filled] = at_least + random.multinomial(spec.rows - at_least * filled.size, weights / weights.sum())
    return counts


def _positions(chunk_of_row: Ints, random: np.random.Generator) -> tuple[Floats, Floats]:
    ra, decl, width = SPHERE.box(chunk_of_row)
    ra += width * random.uniform(_EDGE, 1 - _EDGE, ra.size)
    decl += SPHERE.stripe_height * random.uniform(_EDGE, 1 - _EDGE, ra.size)
    return ra, decl


def _overlap_rows(spec: CatalogSpec, starts: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Source rows of the overlap tables, where the chunks start, and which rows get a key that no chunk table has."""
    random = chance(spec, "overlap")
    counts = np.diff(starts)
    filled = np.flatnonzero(counts)
    if not filled.size:
        return np.zeros(0, np.int64), np.zeros(spec.chunks + 1, np.int64), np.zeros(0, dtype=bool)
    neighbour = filled[np.searchsorted(filled, np.arange(spec.chunks), side="right") % filled.size]
    wanted = np.maximum(1, np.round(counts * _OVERLAP_SHARE)).astype(np.int64)
    source_starts = np.concatenate([[0], np.cumsum(wanted)]).astype(np.int64)
    from_chunk = np.repeat(neighbour, wanted)
    source = starts[from_chunk] + (random.random(from_chunk.size) * counts[from_chunk]).astype(np.int64)
    # A chunk that is its own neighbour, being alone, must not repeat its own keys either.
    foreign = (random.random(spec.chunks) < 0.5) | (neighbour == np.arange(spec.chunks))
    return source, source_starts, np.repeat(foreign, wanted)


def _distinct_keys(count: int, random: np.random.Generator) -> Ints:
    """Different positive 63-bit integers in random order."""
    keys = np.zeros(0, dtype=np.int64)
    while keys.size < count:
        more = random.integers(1, 2**63 - 1, count - keys.size + 16, dtype=np.int64)
        keys = np.sort(np.concatenate([keys, more]))
        keys = keys[np.diff(keys, prepend=0) > 0]  # several times faster than numpy.unique
    return random.permutation(keys)[:count]
