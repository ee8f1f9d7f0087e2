"""Catalogs on real servers, compared key by key with the truth."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import MySQLdb
import numpy as np
import pytest

from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, drop, generate, truth
from sandbox.catalog.columns import sql_columns
from sandbox.catalog.layout import lay_out
from sandbox.catalog.replication import FILTERS_TABLE
from sandbox.catalog.sphere import DUMMY_CHUNK
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from sandbox.servers.servers import MariaDBServer

SMALL = CatalogSpec(rows=4000, chunks=40)
FAULTY = replace(
    SMALL, replicas=2, missing=2, duplicates_within=3, duplicates_across=2, null_keys=7, no_sub_chunk=2, unique=False
)


def ask(server: MariaDBServer, statement: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """As the account that Airflow uses."""
    with contextlib.closing(server.connect("reindex")) as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


def tables(server: MariaDBServer, database: str) -> set[str]:
    rows = ask(server, "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (database,))
    return {str(row[0]) for row in rows}


def chunk_rows(server: MariaDBServer, spec: CatalogSpec, chunk: int, sub_chunk: str = "subChunkId") -> np.ndarray:
    rows = ask(server, f"SELECT {spec.key_column}, {sub_chunk}, ra, decl FROM {spec.database}.{spec.table}_{chunk}")
    return np.array(rows, dtype=object).reshape(len(rows), 4)


def test_every_key_is_where_the_truth_says(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    summary = catalog(SMALL)
    layout = lay_out(SMALL)
    found = 0
    for i, (chunk, workers) in enumerate(summary.placement.items()):
        first, last = layout.starts[i], layout.starts[i + 1]
        assert len(workers) == 1
        rows = chunk_rows(sandbox.workers[workers[0]], summary.spec, chunk)
        assert rows[:, 0].tolist() == layout.truth.keys[first:last].tolist()
        assert rows[:, 1].tolist() == layout.truth.sub_chunk_ids[first:last].tolist()
        assert rows[:, 2].astype(float).tolist() == layout.ra[first:last].tolist()
        assert rows[:, 3].astype(float).tolist() == layout.decl[first:last].tolist()
        assert summary.row_counts[chunk] == len(rows)
        found += len(rows)
    assert found == summary.rows == SMALL.rows
    assert np.array_equal(truth(summary.spec).keys, layout.truth.keys)


def test_tables_are_on_their_workers_and_nowhere_else(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    summary = catalog(SMALL)
    for name, server in sandbox.workers.items():
        held = {chunk for chunk, workers in summary.placement.items() if name in workers} | {DUMMY_CHUNK}
        expected = {f"{kind}_{chunk}" for chunk in held for kind in ("Object", "ObjectFullOverlap")}
        assert tables(server, summary.spec.database) == expected
        assert ask(server, f"SELECT COUNT(*) FROM {summary.spec.database}.Object_{DUMMY_CHUNK}") == [(0,)]
    assert sum(1 for count in summary.row_counts.values() if not count) == 2


def test_chunk_tables_have_the_registered_columns(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    summary = catalog(SMALL)
    chunk, workers = next(iter(summary.placement.items()))
    shown = ask(
        sandbox.workers[workers[0]],
        "SELECT column_name, column_type, is_nullable FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (summary.spec.database, f"Object_{chunk}"),
    )
    assert [row[0] for row in shown] == list(sql_columns(SMALL))
    kinds = {row[0]: row[1:] for row in shown}
    assert kinds["objectId"] == ("bigint(20)", "NO")
    assert kinds["subChunkId"] == ("int(10) unsigned", "NO")
    engine = ask(
        sandbox.workers[workers[0]],
        "SELECT DISTINCT engine FROM information_schema.tables WHERE table_schema = %s",
        (summary.spec.database,),
    )
    assert engine == [("MyISAM",)]


def test_overlap_tables_hold_what_the_layout_says(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    summary = catalog(SMALL)
    layout = lay_out(SMALL)
    for i, (chunk, workers) in enumerate(summary.placement.items()):
        rows = ask(
            sandbox.workers[workers[0]],
            f"SELECT objectId, chunkId FROM {summary.spec.database}.ObjectFullOverlap_{chunk}",
        )
        keys = layout.overlap.keys[layout.overlap.starts[i] : layout.overlap.starts[i + 1]]
        assert rows == [(key, chunk) for key in keys.tolist()]
    assert summary.overlap_rows == layout.overlap.keys.size


@pytest.fixture
def faulty(catalog: CatalogFactory) -> CatalogSummary:
    return catalog(FAULTY)


def test_missing_tables_are_missing_on_one_worker(sandbox: Sandbox, faulty: CatalogSummary) -> None:
    assert len(faulty.missing_on) == 2
    for chunk, workers in faulty.placement.items():
        there = {name for name in workers if f"Object_{chunk}" in tables(sandbox.workers[name], faulty.spec.database)}
        assert there == set(workers) - set(faulty.missing_on.get(chunk, ()))
        assert len(workers) == 2
        assert there


def test_missing_tables_can_be_missing_everywhere(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    summary = catalog(replace(SMALL, replicas=2, missing=3, missing_everywhere=True))
    assert len(summary.missing_on) == 3
    for chunk in summary.missing_on:
        for server in sandbox.workers.values():
            assert f"Object_{chunk}" not in tables(server, summary.spec.database)
            assert f"ObjectFullOverlap_{chunk}" in tables(server, summary.spec.database)


def test_row_faults_are_where_the_summary_says(sandbox: Sandbox, faulty: CatalogSummary) -> None:
    faults, spec = faulty.faults, faulty.spec
    chunks_of: dict[int, list[int]] = {}
    nulls: dict[int, int] = {}
    for chunk, workers in faulty.placement.items():
        usable = [name for name in workers if name not in faulty.missing_on.get(chunk, ())]
        column = "0" if chunk in faults.no_sub_chunk else "subChunkId"
        copies = [chunk_rows(sandbox.workers[name], spec, chunk, column) for name in usable]
        assert all(np.array_equal(copies[0], copy) for copy in copies)
        for key in copies[0][:, 0]:
            if key is None:
                nulls[chunk] = nulls.get(chunk, 0) + 1
            else:
                chunks_of.setdefault(key, []).append(chunk)
    repeated = {key: sorted(chunks) for key, chunks in chunks_of.items() if len(chunks) > 1}
    expected = {key: [chunk, chunk] for key, chunk in faults.duplicates_within.items()}
    expected |= {key: sorted(pair) for key, pair in faults.duplicates_across.items()}
    assert repeated == expected
    assert len(repeated) == 5
    assert nulls == faults.null_keys
    assert sum(nulls.values()) == 7
    known = truth(spec)
    assert set(chunks_of) == set(known.keys[~known.is_null].tolist())


def test_tables_without_the_sub_chunk_column(sandbox: Sandbox, faulty: CatalogSummary) -> None:
    assert len(faulty.faults.no_sub_chunk) == 2
    for chunk in faulty.faults.no_sub_chunk:
        server = sandbox.workers[faulty.placement[chunk][0]]
        with pytest.raises(MySQLdb.OperationalError, match="Unknown column 'subChunkId'"):
            ask(server, f"SELECT subChunkId FROM {faulty.spec.database}.Object_{chunk}")


def test_replication_tables_match(sandbox: Sandbox, catalog: CatalogFactory, faulty: CatalogSummary) -> None:
    whole = catalog(SMALL)
    assert set(ask(sandbox.czar, "SELECT name, is_enabled, is_read_only FROM qservReplica.config_worker")) == {
        ("worker-1", 1, 0),
        ("worker-2", 1, 0),
    }
    assert ask(sandbox.czar, "SELECT num_stripes, num_sub_stripes FROM qservReplica.config_database_family") == [
        (340, 3)
    ]
    for summary in (whole, faulty):
        spec = summary.spec
        rows = ask(
            sandbox.czar, "SELECT chunk, worker FROM qservReplica.replica WHERE `database` = %s", (spec.database,)
        )
        expected = {(chunk, name) for chunk, names in summary.placement.items() for name in names}
        assert set(rows) == expected | {(DUMMY_CHUNK, name) for name in sandbox.workers}
        assert len(rows) == len(set(rows))
        listed = ask(
            sandbox.czar,
            "SELECT `table`, is_partitioned, director_table, director_key, unique_primary_key, is_published "
            "FROM qservReplica.config_database_table WHERE `database` = %s",
            (spec.database,),
        )
        assert set(listed) == {
            ("Object", 1, "", "objectId", int(spec.unique), 1),
            ("Source", 1, "Object", "objectId", 0, 1),
            (FILTERS_TABLE, 0, "", "", 0, 1),
        }
        schema = ask(
            sandbox.czar,
            "SELECT col_name, col_type FROM qservReplica.config_database_table_schema "
            "WHERE `database` = %s AND `table` = 'Object' ORDER BY col_position",
            (spec.database,),
        )
        assert schema == list(sql_columns(spec).items())


def test_an_unpublished_catalog_with_other_names_and_types(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    spec = CatalogSpec(
        database="other_sky",
        table="Source",
        key_column="sourceId2",
        key_type="bigint(20) unsigned NOT NULL",
        sub_chunk_type="int(11) NOT NULL",
        rows=200,
        chunks=5,
        published=False,
    )
    assert catalog(spec).spec is spec
    listed = ask(
        sandbox.czar,
        "SELECT `table`, director_table, is_published FROM qservReplica.config_database_table WHERE `database` = %s",
        ("other_sky",),
    )
    assert ("Source", "", 0) in listed
    assert ("ForcedSource", "Source", 0) in listed
    published = ask(
        sandbox.czar, "SELECT is_published FROM qservReplica.config_database WHERE `database` = 'other_sky'"
    )
    assert published == [(0,)]


def test_generating_again_replaces_and_dropping_removes(sandbox: Sandbox) -> None:
    spec = CatalogSpec(database="again", rows=300, chunks=10, empty_chunks=0)
    seen: list[tuple[int, int]] = []
    generate(sandbox, spec)
    summary = generate(sandbox, replace(spec, seed=5), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)]
    held = set().union(*(tables(server, "again") for server in sandbox.workers.values()))
    assert {int(name.split("_")[1]) for name in held} == {*summary.placement, DUMMY_CHUNK}
    drop(sandbox, "again")
    for server in sandbox.workers.values():
        assert tables(server, "again") == set()
        assert not any("again" in str(row[0]) for row in ask(server, "SHOW GRANTS"))
    assert ask(sandbox.czar, "SELECT COUNT(*) FROM qservReplica.replica WHERE `database` = 'again'") == [(0,)]
    drop(sandbox, "again")


def test_the_account_can_only_read_on_workers(sandbox: Sandbox, catalog: CatalogFactory) -> None:
    summary = catalog(SMALL)
    chunk, workers = next(iter(summary.placement.items()))
    for refused in ("DELETE FROM {0}.Object_{1}", "DROP TABLE {0}.Object_{1}", "CREATE TABLE {0}.x (a INT)"):
        with pytest.raises(MySQLdb.OperationalError, match="denied"):
            ask(sandbox.workers[workers[0]], refused.format(summary.spec.database, chunk))


def test_equal_specs_share_a_catalog_unless_it_is_to_be_fresh(catalog: CatalogFactory) -> None:
    spec = CatalogSpec(rows=50, chunks=3, empty_chunks=0)
    one = catalog(spec)
    assert catalog(replace(spec)) is one
    fresh = catalog(spec, fresh=True)
    assert fresh.spec.database != one.spec.database
    assert catalog(spec) is one


def test_too_many_replicas_are_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="3 replicas"):
        generate(sandbox, replace(SMALL, replicas=3))
