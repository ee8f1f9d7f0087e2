"""Rows and faults of a catalog, without any server."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.catalog.columns import create_statement, director_rows, overlap_rows, sql_columns
from sandbox.catalog.layout import SPHERE, lay_out
from sandbox.catalog.spec import CatalogSpec

SMALL = CatalogSpec(rows=3000, chunks=40)

specs = st.builds(
    CatalogSpec,
    rows=st.integers(0, 3000),
    chunks=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    empty_chunks=st.one_of(st.just(0), st.floats(0.01, 0.5)),
)


@settings(max_examples=40, deadline=None)
@given(spec=specs)
def test_rows_lie_in_their_chunks_with_keys_of_their_own(spec: CatalogSpec) -> None:
    layout = lay_out(spec)
    truth = layout.truth
    assert truth.keys.size == truth.chunk_ids.size == truth.sub_chunk_ids.size == spec.rows
    assert np.unique(truth.keys).size == spec.rows
    assert (truth.keys > 0).all()
    chunk_ids, sub_chunk_ids = SPHERE.locate(layout.ra, layout.decl)
    assert np.array_equal(chunk_ids, truth.chunk_ids)
    assert np.array_equal(sub_chunk_ids, truth.sub_chunk_ids)
    assert (layout.counts == 0).sum() >= spec.empty_count
    assert np.array_equal(np.repeat(layout.chunk_ids, layout.counts), truth.chunk_ids)


def test_equal_seeds_give_equal_catalogs_and_others_do_not() -> None:
    one, same, other = lay_out(SMALL), lay_out(replace(SMALL)), lay_out(replace(SMALL, seed=2))
    assert np.array_equal(one.truth.keys, same.truth.keys)
    assert director_rows(one).equals(director_rows(same))
    assert not np.isin(one.truth.keys, other.truth.keys).any()


def test_names_and_replicas_do_not_change_the_rows() -> None:
    one, other = lay_out(SMALL), lay_out(replace(SMALL, database="other", table="Thing", replicas=2))
    assert np.array_equal(one.truth.index_rows(), other.truth.index_rows())


def test_chunks_are_very_uneven_and_rows_not_in_key_order() -> None:
    layout = lay_out(CatalogSpec(rows=100_000, chunks=200))
    filled = layout.counts[layout.counts > 0]
    assert filled.size == 190
    assert filled.max() > 5 * np.median(filled)
    largest = int(layout.counts.argmax())
    keys = layout.truth.keys[layout.starts[largest] : layout.starts[largest + 1]]
    assert 0.4 < (np.diff(keys) > 0).mean() < 0.6
    assert layout.truth.keys.max() > 2**62


def test_overlap_never_repeats_a_key_of_its_own_chunk_and_has_foreign_keys() -> None:
    layout = lay_out(SMALL)
    foreign = ~np.isin(layout.overlap.keys, layout.truth.keys)
    assert 0 < foreign.sum() < foreign.size
    for i in range(SMALL.chunks):
        own = layout.truth.keys[layout.starts[i] : layout.starts[i + 1]]
        around = layout.overlap.keys[layout.overlap.starts[i] : layout.overlap.starts[i + 1]]
        assert around.size >= 1
        assert not np.isin(around, own).any()


def test_a_single_chunk_has_an_overlap_of_foreign_keys_only() -> None:
    layout = lay_out(CatalogSpec(rows=500, chunks=1, empty_chunks=0))
    assert layout.overlap.keys.size == 50
    assert not np.isin(layout.overlap.keys, layout.truth.keys).any()


def test_overlap_rows_differ_from_their_source_in_key_and_chunk_only() -> None:
    layout = lay_out(SMALL)
    rows = director_rows(layout)
    copies = overlap_rows(layout, rows)
    changed = {name for name in rows.column_names if not copies[name].equals(rows[name].take(layout.overlap.source))}
    assert changed == {"objectId", "chunkId"}
    assert np.array_equal(copies["objectId"], layout.overlap.keys)


@settings(max_examples=30, deadline=None)
@given(
    asked=st.fixed_dictionaries(
        {
            **dict.fromkeys(("duplicates_within", "duplicates_across", "null_keys"), st.integers(0, 20)),
            **dict.fromkeys(("missing", "no_sub_chunk"), st.integers(0, 4)),
            "seed": st.integers(0, 1000),
        }
    )
)
def test_faults_are_as_many_as_asked_for(asked: dict[str, int]) -> None:
    layout = lay_out(replace(SMALL, **asked))  # type: ignore[arg-type]
    truth, faults = layout.truth, layout.faults
    keys, counts = np.unique(truth.keys[~truth.is_null], return_counts=True)
    twice = set(keys[counts == 2].tolist())
    assert counts.max() <= 2
    assert twice == {*faults.duplicates_within, *faults.duplicates_across}
    assert len(faults.duplicates_within) == asked["duplicates_within"]
    assert len(faults.duplicates_across) == asked["duplicates_across"]
    for key, chunk in faults.duplicates_within.items():
        assert truth.chunk_ids[truth.keys == key].tolist() == [chunk, chunk]
    for key, chunks in faults.duplicates_across.items():
        assert sorted(truth.chunk_ids[truth.keys == key].tolist()) == sorted(chunks)
        assert chunks[0] != chunks[1]
    null_chunks, null_counts = np.unique(truth.chunk_ids[truth.is_null], return_counts=True)
    assert dict(zip(null_chunks.tolist(), null_counts.tolist(), strict=True)) == faults.null_keys
    assert sum(faults.null_keys.values()) == asked["null_keys"]
    assert len(set(faults.missing)) == asked["missing"]
    assert len(set(faults.no_sub_chunk)) == asked["no_sub_chunk"]
    broken = {*faults.missing, *faults.no_sub_chunk}
    assert len(broken) == asked["missing"] + asked["no_sub_chunk"]
    assert broken.isdisjoint(null_chunks.tolist())
    assert broken.isdisjoint(faults.duplicates_within.values())


def test_index_rows_are_sorted_without_nulls_and_without_some_chunks() -> None:
    truth = lay_out(replace(SMALL, null_keys=7)).truth
    skipped = int(truth.chunk_ids[0])
    keys, chunk_ids, _ = truth.index_rows(without_chunks=[skipped])
    assert np.all(np.diff(keys) > 0)
    assert skipped not in chunk_ids
    assert keys.size == (~truth.is_null & (truth.chunk_ids != skipped)).sum()
    assert truth.index_rows()[0].size == SMALL.rows - 7


@pytest.mark.parametrize(
    "faults",
    [{"missing": 39}, {"duplicates_across": 5000}, {"null_keys": 3001}, {"missing": 30, "no_sub_chunk": 30}],
)
def test_too_many_faults_are_refused(faults: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="too few"):
        lay_out(replace(SMALL, **faults))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"database": "a`b"},
        {"table": ""},
        {"key_column": "1x"},
        {"key_type": "BIGINT) ENGINE=x; --"},
        {"sub_chunk_type": "INT, x INT"},
        {"rows": -1},
        {"chunks": 0},
        {"replicas": 0},
        {"empty_chunks": -0.1},
        {"empty_chunks": 1000},
    ],
)
def test_a_senseless_spec_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CatalogSpec(**wrong)  # type: ignore[arg-type]


def test_columns_of_chunk_tables() -> None:
    columns = sql_columns(CatalogSpec(key_type="bigint(20) NOT NULL", sub_chunk_type="int(11) NOT NULL"))
    assert list(columns).index("objectId") > 0
    assert columns["objectId"] == "bigint(20) NOT NULL"
    assert columns["subChunkId"] == "int(11) NOT NULL"
    assert len(columns) >= 20
    with pytest.raises(ValueError, match="another column"):
        sql_columns(CatalogSpec(key_column="RA"))


def test_a_nullable_key_and_a_missing_column_show_in_the_statement() -> None:
    whole = create_statement(CatalogSpec(), "T_1", nullable_key=False, sub_chunk=True)
    faulty = create_statement(CatalogSpec(), "T_1", nullable_key=True, sub_chunk=False)
    assert "`objectId` BIGINT NOT NULL" in whole
    assert "`subChunkId`" in whole
    assert "`objectId` BIGINT," in faulty
    assert "`subChunkId`" not in faulty
