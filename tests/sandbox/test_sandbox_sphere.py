"""The division of the sky, without any server."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.catalog.sphere import Sphere, unit_vectors

SPHERE = Sphere(340, 3)


@pytest.mark.parametrize(("stripes", "sub_stripes", "chunks"), [(85, 12, 8_983), (340, 3, 146_332)])
def test_whole_sphere_has_the_published_number_of_chunks(stripes: int, sub_stripes: int, chunks: int) -> None:
    sphere = Sphere(stripes, sub_stripes)
    ids = sphere.all_chunks()
    assert ids.size == chunks
    assert np.all(np.diff(ids) > 0)


def test_chunks_cover_the_sphere_from_pole_to_pole() -> None:
    per_stripe = SPHERE.chunks_per_stripe
    assert per_stripe[0] == per_stripe[-1] == 1
    assert np.array_equal(per_stripe, per_stripe[::-1])
    assert per_stripe[169] == per_stripe[170] == per_stripe.max()
    # No chunk number may run into those of the next stripe.
    assert per_stripe.max() <= 2 * SPHERE.stripes


@given(ra=st.floats(0, 359.999999), decl=st.floats(-90, 90), shape=st.sampled_from([(340, 3), (85, 12), (7, 1)]))
def test_a_position_lies_in_the_box_of_its_chunk(ra: float, decl: float, shape: tuple[int, int]) -> None:
    sphere = Sphere(*shape)
    chunk, sub_chunk = sphere.locate(np.array([ra]), np.array([decl]))
    west, south, width = sphere.box(chunk)
    assert west[0] - 1e-9 <= ra <= west[0] + width[0] + 1e-9
    assert south[0] - 1e-9 <= decl <= south[0] + sphere.stripe_height + 1e-9
    assert 0 <= sub_chunk[0] < sphere.sub_stripes * sphere.sub_chunk_stride


@given(stripe=st.integers(2, 337))
def test_chunks_are_about_as_wide_as_high(stripe: int) -> None:
    ids = np.array([2 * SPHERE.stripes * stripe])
    _, south, width = SPHERE.box(ids)
    farthest = max(abs(south[0]), abs(south[0] + SPHERE.stripe_height))
    corners = unit_vectors(np.array([0.0, width[0]]), np.array([farthest, farthest]))
    across = np.degrees(np.arccos(corners[0] @ corners[1]))
    assert SPHERE.stripe_height - 1e-6 <= across <= 2 * SPHERE.stripe_height


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_patches_are_chosen_without_repetition(count: int, seed: int) -> None:
    ids, distance = SPHERE.patches(count, np.random.default_rng(seed))
    assert ids.size == distance.size == count
    assert np.all(np.diff(ids) > 0)
    assert np.isin(ids, SPHERE.all_chunks()).all()
    # Round fields: a disc of that many chunks of 0.28 square degrees, at most 3000 of them, has a small radius.
    assert distance.max() < 2 * np.sqrt(0.29 * count / np.pi) + 1


def test_more_chunks_than_the_sphere_has_are_refused() -> None:
    with pytest.raises(ValueError, match="146332"):
        SPHERE.patches(146_333, np.random.default_rng(1))
