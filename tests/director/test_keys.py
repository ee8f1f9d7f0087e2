"""Keys that occur twice, and keys above the signed range."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.core.report import Failure
from airflow_reindex.director.model.records import read_split
from sandbox.catalog.catalog import truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.director.failing import SPEC, assert_old_index, change, fails, live, make_old_index, worker_of
from tests.support.build import Build, Factory, assert_same, run_sql

pytestmark = pytest.mark.usefixtures("clean")


class TestDuplicates:
    def load_failures(self, run: Build) -> dict[int, Failure]:
        """What the loads of a build report, by chunk; it must not come to an index."""
        make_old_index(run)
        run.rows_per_task = 1_500
        run.to_load()
        numbers = [key_range.number for key_range in read_split(run.folder).ranges]
        assert len(numbers) > 1
        assert fails(run.load, numbers, DataError)
        # A retry says the same.
        assert fails(run.load, numbers, DataError)
        with pytest.raises(DataError, match="rows were extracted, but"):
            run.publish()
        assert_old_index(run)
        found: dict[int, Failure] = {}
        for failure in run.failures("load"):
            text = f"{found[failure.chunk].message}; " if failure.chunk in found else ""
            found[failure.chunk] = replace(failure, message=text + failure.message)
            assert failure.kind is Code.DUPLICATE_KEYS
        return found

    @pytest.fixture
    def small_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Several ranges of several slices."""
        monkeypatch.setattr(Build, "slice_rows", 300)

    @pytest.mark.usefixtures("small_slices")
    def test_within_a_chunk(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, duplicates_within=6))
        found = self.load_failures(build(made.spec.database, rebuild=1))
        assert set(found) == set(made.faults.duplicates_within.values())
        for key, chunk in made.faults.duplicates_within.items():
            assert str(key) in found[chunk].message
            assert "twice within the chunk" in found[chunk].message
            assert found[chunk].worker == worker_of(made, chunk)

    @pytest.mark.usefixtures("small_slices")
    def test_across_chunks(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, duplicates_across=6))
        found = self.load_failures(build(made.spec.database, rebuild=1))
        assert set(found) == {chunk for pair in made.faults.duplicates_across.values() for chunk in pair}
        for key, (one, other) in made.faults.duplicates_across.items():
            for chunk, with_whom in ((one, other), (other, one)):
                texts = [text for text in found[chunk].message.split("; ") if f"also in chunk {with_whom}" in text]
                assert any(str(key) in text for text in texts)
                assert found[chunk].worker == worker_of(made, chunk)

    @pytest.mark.usefixtures("small_slices")
    @pytest.mark.parametrize("local", [0, 1])
    @pytest.mark.parametrize("configured", [True, False], ids=["param", "catalog"])
    def test_non_unique_index_takes_them(
        self, catalog: CatalogFactory, build: Factory, local: int, configured: bool
    ) -> None:
        made = catalog(replace(SPEC, duplicates_within=5, duplicates_across=5, unique=configured))
        params = {"unique_primary_key": 0} if configured else {}
        run = build(made.spec.database, rebuild=1, local=local, **params)
        assert run.run().rows == made.rows
        assert_same(run.index(), truth(made.spec).index_rows())

    @pytest.mark.usefixtures("small_slices")
    def test_param_makes_a_configured_key_unique(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(replace(SPEC, duplicates_within=5, duplicates_across=5, unique=False))
        assert self.load_failures(build(made.spec.database, rebuild=1, unique_primary_key=1))


class TestKeys:
    def test_unsigned_keys_above_the_signed_range(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Build, "slice_rows", 300)
        made = catalog(replace(SPEC, key_type="BIGINT UNSIGNED NOT NULL"), fresh=True)
        rows = set(zip(*(column.tolist() for column in truth(made.spec).index_rows()), strict=True))
        for number, chunk in enumerate(sorted(made.placement)):
            keys = [2**63 - 1 + number, 2**64 - 1 - number, 2**63 + 10**18 + number]
            values = ", ".join(f"(1, 1, {key}, 0, {chunk}, 7)" for key in keys)
            change(
                sandbox,
                made,
                chunk,
                f"INSERT INTO {{table}} (ra, decl, objectId, flags, chunkId, subChunkId) VALUES {values}",
            )
            rows |= {(key, chunk, 7) for key in keys}
        run = build(made.spec.database)
        run.rows_per_task = 1_000
        assert run.run().rows == len(rows)
        assert run_sql(sandbox.czar, f"SELECT * FROM {live(run)} ORDER BY objectId") == sorted(rows)

    def test_duplicate_of_the_largest_key(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        made = catalog(replace(SPEC, key_type="BIGINT UNSIGNED NOT NULL"), fresh=True)
        chunks = sorted(made.placement)[:2]
        for chunk in chunks:
            change(sandbox, made, chunk, f"UPDATE {{table}} SET objectId = {2**64 - 1} LIMIT 1")
        run = build(made.spec.database)
        run.to_load()
        assert fails(run.load, [r.number for r in read_split(run.folder).ranges], DataError)
        assert [f.chunk for f in run.failures("load")] == chunks
        assert all(str(2**64 - 1) in f.message for f in run.failures("load"))
