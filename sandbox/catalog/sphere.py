"""Qserv's division of the sky into stripes, chunks and sub-chunks.

The sky is cut into stripes of equal height in declination; each stripe into chunks of equal width in right ascension,
about as wide as a stripe is high; each chunk into sub-stripes, and these into sub-chunks, by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

DUMMY_CHUNK = 1234567890

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_POLE = np.pi / 2 - 5e-6  # nearer to a pole than this (in rad, about 1 arc second), a band is a single segment


def segments(lowest: Floats, highest: Floats, width: float) -> Ints:
    """Into how many segments a band of declination can be cut so that none is narrower than a width.

    :param lowest: lower edges of the bands, in degrees, any shape
    :param highest: upper edges of the bands, in degrees, same shape
    :param width: in degrees, measured along a great circle, not along the parallel
    :returns: number of segments, at least 1, same shape
    """
    farthest = np.radians(np.maximum(np.abs(lowest), np.abs(highest)))
    latitude = np.minimum(farthest, _POLE)
    # Two points on a parallel, `width` apart: the cosine of their difference in longitude, by the law of cosines.
    cosine = (np.cos(np.radians(width)) - np.sin(latitude) ** 2) / np.cos(latitude) ** 2
    count = np.floor(2 * np.pi / np.arccos(np.clip(cosine, -1.0, 1.0))).astype(np.int64)
    return np.where(farthest > _POLE, 1, np.maximum(count, 1))


@dataclass(frozen=True)
class Sphere:
    """The division for given numbers of stripes.

    :param stripes: number of stripes
    :param sub_stripes: number of sub-stripes of each stripe
    """

    stripes: int = 340
    sub_stripes: int = 3

    @property
    def stripe_height(self) -> float:
        """In degrees."""
        return 180.0 / self.stripes

    @cached_property
    def chunks_per_stripe(self) -> Ints:
        """Number of chunks of each stripe, from south to north; shape ``(stripes,)``."""
        edges = np.linspace(-90.0, 90.0, self.stripes + 1)
        return segments(edges[:-1], edges[1:], self.stripe_height)

    @cached_property
    def sub_chunks_per_chunk(self) -> Ints:
        """Number of sub-chunks of a chunk in each sub-stripe; shape ``(stripes, sub_stripes)``."""
        edges = np.linspace(-90.0, 90.0, self.stripes * self.sub_stripes + 1)
        count = segments(edges[:-1], edges[1:], self.stripe_height / self.sub_stripes)
        shaped: Ints = count.reshape(self.stripes, self.sub_stripes) // self.chunks_per_stripe[:, np.newaxis]
        return shaped.clip(min=1)

    @property
    def sub_chunk_stride(self) -> int:
        """The largest number of sub-chunks that a sub-stripe of any chunk has."""
        return int(self.sub_chunks_per_chunk.max())

    @property
    def chunk_count(self) -> int:
        """Number of chunks on the whole sphere."""
        return int(self.chunks_per_stripe.sum())

    def all_chunks(self) -> Ints:
        """:returns: the ids of all chunks, ascending, shape ``(chunk_count,)``"""
        stripe = np.repeat(np.arange(self.stripes), self.chunks_per_stripe)
        first = np.cumsum(self.chunks_per_stripe) - self.chunks_per_stripe
        within = np.arange(self.chunk_count) - first[stripe]
        return 2 * self.stripes * stripe + within

    def split(self, chunk_ids: Ints) -> tuple[Ints, Ints]:
        """Where chunks are.

        :param chunk_ids: ids of chunks, any shape
        :returns: their stripes, and their numbers within the stripe, same shape
        """
        return chunk_ids // (2 * self.stripes), chunk_ids % (2 * self.stripes)

    def box(self, chunk_ids: Ints) -> tuple[Floats, Floats, Floats]:
        """The south-western corners and the widths of chunks.

        :param chunk_ids: ids of chunks, any shape
        :returns: right ascension, declination and width in right ascension, in degrees, same shape
        """
        stripe, within = self.split(chunk_ids)
        width: Floats = np.divide(360.0, self.chunks_per_stripe[stripe])
        south: Floats = np.multiply(stripe, self.stripe_height) - 90.0
        return within * width, south, width

    def locate(self, ra: Floats, decl: Floats) -> tuple[Ints, Ints]:
        """In which chunk and sub-chunk positions lie.

        :param ra: right ascension in degrees, 0 to 360, any shape
        :param decl: declination in degrees, -90 to 90, same shape
        :returns: chunk ids and sub-chunk ids, same shape
        """
        sub_height = self.stripe_height / self.sub_stripes
        row = np.clip(np.floor((decl + 90.0) / sub_height).astype(np.int64), 0, self.stripes * self.sub_stripes - 1)
        stripe, sub_stripe = row // self.sub_stripes, row % self.sub_stripes
        chunks = self.chunks_per_stripe[stripe]
        along = ra / 360.0 * chunks
        chunk = np.clip(np.floor(along).astype(np.int64), 0, chunks - 1)
        parts = self.sub_chunks_per_chunk[stripe, sub_stripe]
        part = np.clip(np.floor((along - chunk) * parts).astype(np.int64), 0, parts - 1)
        return 2 * self.stripes * stripe + chunk, self.sub_chunk_stride * sub_stripe + part

    @cached_property
    def _centres(self) -> tuple[Ints, Floats]:
        """The ids of all chunks, and the unit vectors to their centres."""
        ids = self.all_chunks()
        ra, decl, width = self.box(ids)
        return ids, unit_vectors(ra + width / 2, decl + self.stripe_height / 2)

    def patches(self, count: int, random: np.random.Generator) -> tuple[Ints, Floats]:
        """Choose chunks as a survey does: a few round fields on the sky.

        :param count: number of chunks, at most :attr:`chunk_count`
        :param random: source of chance
        :returns: ids of the chunks, ascending, and the distance of each from its field's centre in degrees; both of
            shape ``(count,)``
        """
        if count > self.chunk_count:
            raise ValueError(f"the sphere has only {self.chunk_count} chunks, not {count}")
        ids, points = self._centres
        fields = min(7, max(1, count // 40))
        distance = np.full(ids.shape, np.inf)
        chosen = np.zeros(ids.shape, dtype=bool)
        for i in range(fields):
            centre = unit_vectors(random.uniform(0, 360, 1), random.uniform(-70, 10, 1))
            angle = np.degrees(np.arccos(np.clip(points @ centre[0], -1.0, 1.0)))
            wanted = count * (i + 1) // fields - count * i // fields
            nearest = np.argsort(np.where(chosen, np.inf, angle), kind="stable")[:wanted]
            chosen[nearest] = True
            distance[nearest] = angle[nearest]
        return ids[chosen], distance[chosen]


def unit_vectors(ra: Floats, decl: Floats) -> Floats:
    """Positions as vectors.

    :param ra: right ascension in degrees, shape ``(n,)``
    :param decl: declination in degrees, shape ``(n,)``
    :returns: unit vectors, shape ``(n, 3)``
    """
    lon, lat = np.radians(ra), np.radians(decl)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
