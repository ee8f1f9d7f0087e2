"""Runs and tables that somebody has changed since they were written: nothing is published from them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.director.model.runs import manifests, read_part, write_run
from sandbox.catalog.catalog import CatalogSummary
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, Factory, run_sql, tables_of

pytestmark = pytest.mark.usefixtures("clean")


def change_runs(run: Build) -> None:
    """In each run, one row moves to another sub-chunk."""
    for found in manifests(run.folder):
        for file in found.files:
            (rows,) = read_part(run.folder, file.name, None, None)
            sub_chunk = rows.sub_chunk.copy()
            sub_chunk[len(rows) // 2] += 1
            changed = write_run(
                run.folder, file.name.removesuffix("-00.parquet"), replace(rows, sub_chunk=sub_chunk), file.rows
            )
            assert [part.name for part in changed] == [file.name]


def test_loaded_slices_are_compared(sky: CatalogSummary, build: Factory, sandbox: Sandbox) -> None:
    run = build(sky.spec.database)
    run.to_load()
    run.load(0)
    change_runs(run)
    with pytest.raises(DataError, match=r"slice 0 of range 0 was loaded with \d+ rows") as caught:
        run.load(0)
    assert caught.value.code is Code.STALE_PLAN
    assert f"{sky.spec.database}__Object" not in tables_of(sandbox, "qservMeta")


def test_what_is_loaded_later_is_compared_with_the_chunks(
    sky: CatalogSummary, build: Factory, sandbox: Sandbox
) -> None:
    run = build(sky.spec.database)
    run.to_load()
    change_runs(run)
    run.load_all()
    with pytest.raises(DataError, match="their contents differ") as caught:
        run.publish()
    assert caught.value.code is Code.INDEX_DIFFERS
    assert f"{sky.spec.database}__Object" not in tables_of(sandbox, "qservMeta")


@pytest.mark.parametrize(
    ("change", "rows"),
    [("DELETE FROM {} LIMIT 1", 1), ("UPDATE {} SET subChunkId = subChunkId + 1 LIMIT 1", 0)],
    ids=["rows", "contents"],
)
def test_what_is_in_the_table_is_compared_with_what_was_loaded(
    sky: CatalogSummary, build: Factory, sandbox: Sandbox, change: str, rows: int
) -> None:
    run = build(sky.spec.database)
    run.to_load()
    run.load_all()
    (shadow,) = [name for name in run.working_tables() if name.startswith("shadow")]
    run_sql(sandbox.czar, change.format(f"airflow_reindex.`{shadow}`"))
    with pytest.raises(DataError, match="in the shadow table") as caught:
        run.publish()
    assert caught.value.code is Code.INDEX_DIFFERS
    loaded, found = (
        int(text.replace(",", "")) for text in re.findall(r"([\d,]+) (?:rows were|are in)", str(caught.value))
    )
    assert loaded - found == rows
    assert f"{sky.spec.database}__Object" not in tables_of(sandbox, "qservMeta")
