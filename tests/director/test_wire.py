"""Rows read from the socket: the same as the driver gives, and never a wrong one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import MySQLdb
import numpy as np
import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director import extract, wire
from airflow_reindex.director.extract import Extractor, Source, stream
from airflow_reindex.director.run_buffer import RunBuffer
from airflow_reindex.director.runs import accounted, manifests, read_part
from airflow_reindex.director.sql import Connection, query
from airflow_reindex.director.throttle import Watch
from airflow_reindex.director.wire import SurpriseError, Wire, usable
from airflow_reindex.sandbox.cluster import Sandbox
from airflow_reindex.sandbox.servers import MariaDBServer
from tests.core.samples import TOKEN, make_plan, planned, tuples
from tests.harness import run_sql

TYPES = {
    "TINYINT": (-128, 127), "TINYINT UNSIGNED": (0, 255), "SMALLINT": (-(1 << 15), (1 << 15) - 1),
    "SMALLINT UNSIGNED": (0, (1 << 16) - 1), "MEDIUMINT": (-(1 << 23), (1 << 23) - 1),
    "MEDIUMINT UNSIGNED": (0, (1 << 24) - 1), "INT": (-(1 << 31), (1 << 31) - 1), "INT UNSIGNED": (0, (1 << 32) - 1),
    "BIGINT": (-(1 << 63), (1 << 63) - 1), "BIGINT UNSIGNED": (0, (1 << 64) - 1),
}  # fmt: skip


@pytest.fixture
def worker(sandbox: Sandbox) -> Iterator[MariaDBServer]:
    """A server with a database of the test's own."""
    server = sandbox.workers["worker-1"]
    run_sql(server, "CREATE OR REPLACE DATABASE lsst")
    yield server
    run_sql(server, "DROP DATABASE lsst")


@pytest.fixture
def connection(worker: MariaDBServer) -> Iterator[Connection]:
    """A connection to it."""
    with contextlib.closing(worker.connect()) as opened:
        yield opened


def rows(reader: Wire, sql: str) -> list[tuple[int, ...]]:
    """All rows of a statement."""
    return [row for some in reader.stream(sql) for row in zip(*(column.tolist() for column in some), strict=True)]


@pytest.mark.parametrize("other", ["TINYINT", "SMALLINT UNSIGNED", "BIGINT"])
@pytest.mark.parametrize("kind", TYPES)
def test_all_integer_types(worker: MariaDBServer, connection: Connection, kind: str, other: str) -> None:
    values = [*TYPES[kind], 0, 1, 100]
    others = [*TYPES[other], 0, 1, 100]
    run_sql(
        worker,
        f"CREATE TABLE lsst.t (a {kind} NOT NULL, b {other} NOT NULL)",
        f"INSERT INTO lsst.t VALUES {', '.join(map(str, zip(values, others, strict=True)))}",
    )
    with Wire(connection) as reader:
        assert rows(reader, "SELECT a, b FROM lsst.t") == list(zip(values, others, strict=True))
        assert rows(reader, "SELECT b FROM lsst.t") == [(value,) for value in others]


@pytest.mark.parametrize("buffer", [1 << 20, 64, 200])
@pytest.mark.parametrize("count", [0, 1, 3, 5_000])
def test_any_number_of_rows_and_the_driver_goes_on(
    worker: MariaDBServer, connection: Connection, monkeypatch: pytest.MonkeyPatch, buffer: int, count: int
) -> None:
    # Definitions of columns must fit too.
    monkeypatch.setattr(wire, "_BUFFER_BYTES", max(buffer, 200))
    sql = f"SELECT seq, CAST(seq * 3 AS SIGNED) FROM mysql.seq_1_to_{max(count, 1)} WHERE seq <= {count}"
    with Wire(connection) as reader:
        for _ in range(2):
            assert rows(reader, sql) == [(i, 3 * i) for i in range(1, count + 1)]
            assert query(connection, "SELECT 7, 'x'") == [(7, "x")]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nothing FROM lsst.none",
        "SELECT CAST(1 AS DOUBLE)",
        "SELECT 'text'",
        "SELECT NULL",
        "SELECT IF(seq = 4000, NULL, seq) FROM mysql.seq_1_to_8000",
        "SELECT seq, IF(seq = 4000, NULL, seq) FROM mysql.seq_1_to_8000",
        "SELECT ?",
        "not sql",
    ],
)
def test_what_is_not_rows_of_one_size_is_a_surprise(connection: Connection, sql: str) -> None:
    with Wire(connection) as reader, pytest.raises(SurpriseError):
        rows(reader, sql)


def test_an_error_of_the_server_in_mid_answer_is_a_surprise(worker: MariaDBServer, connection: Connection) -> None:
    run_sql(worker, "CREATE TABLE lsst.big SELECT seq, seq AS other FROM mysql.seq_1_to_300000")
    with Wire(connection) as reader:
        answer = reader.stream("SELECT seq, other FROM lsst.big")
        next(answer)
        run_sql(worker, f"KILL {connection.thread_id()}")
        with pytest.raises((SurpriseError, OSError)):
            list(answer)


@pytest.fixture
def chunk(worker: MariaDBServer) -> MariaDBServer:
    """Chunk tables 1 and 2 of 30,000 rows."""
    for number in (1, 2):
        run_sql(
            worker,
            f"CREATE TABLE lsst.Object_{number} (objectId BIGINT, subChunkId INT) ENGINE=MyISAM "
            f"SELECT {number * 10**6} + seq AS objectId, seq % 9 AS subChunkId FROM mysql.seq_1_to_30000",
        )
    return worker


def extracted(server: MariaDBServer, folder: Folder) -> tuple[extract.Outcome, int]:
    """Extract both chunks; the outcome, and how many rows the manifests hold."""
    chunks = [planned(1), planned(2)]
    with RunBuffer(folder, make_plan([chunks]), 0, 10_000) as buffer:
        outcome = Extractor(make_plan([chunks]), {"w1": server.connect}, buffer, Watch()).run(chunks)
    names = [file.name for m in accounted(manifests(folder), TOKEN) for file in m.files]
    return outcome, sum(len(piece) for name in names for piece in read_part(folder, name, None, None))


def test_socket_and_driver_give_the_same(chunk: MariaDBServer) -> None:
    found = []
    for fast in (True, False):
        source = Source.open(chunk.connect, fast=fast)
        assert (source.wire is not None) == fast
        found.append([row for some in stream(source, make_plan(), 2) for row in tuples(some)])
        source.close()
    assert found[0] == found[1]
    assert len(found[0]) == 30_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE lsst.Object_1 SET objectId = NULL WHERE objectId % 10000 = 9999",
            "column 'objectId' is NULL in 3 row",
        ),
        ("UPDATE lsst.Object_1 SET subChunkId = NULL WHERE objectId = 1000007", "column 'subChunkId' is NULL in 1 row"),
        ("ALTER TABLE lsst.Object_1 MODIFY objectId DOUBLE", "is not an integer column"),
        ("ALTER TABLE lsst.Object_1 MODIFY subChunkId BIGINT, DROP objectId", "Unknown column"),
        ("DROP TABLE lsst.Object_1", "errno: 1146"),
    ],
)
def test_what_the_driver_says_of_a_bad_chunk_is_reported(
    chunk: MariaDBServer, change: str, message: str, tmp_path: Any
) -> None:
    run_sql(chunk, change)
    outcome, count = extracted(chunk, Folder.at(str(tmp_path)))
    (failure,) = outcome.failures
    assert failure.chunk == 1
    assert message in failure.message
    assert (outcome.chunks, outcome.rows, count) == (1, 30_000, 30_000), "nothing of the bad chunk, the other one once"


def test_values_out_of_range_are_told(chunk: MariaDBServer, tmp_path: Any) -> None:
    run_sql(
        chunk, "ALTER TABLE lsst.Object_2 MODIFY subChunkId BIGINT", "UPDATE lsst.Object_2 SET subChunkId = 1 << 40"
    )
    outcome, count = extracted(chunk, Folder.at(str(tmp_path)))
    (failure,) = outcome.failures
    assert "out of range for INT: 1099511627776" in failure.message
    assert count == 30_000


def test_a_connection_that_dies_is_the_drivers_error(chunk: MariaDBServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_BUFFER_BYTES", 4096)
    run_sql(chunk, "CREATE TABLE lsst.Object_3 SELECT seq AS objectId, 1 AS subChunkId FROM mysql.seq_1_to_900000")
    source = Source.open(chunk.connect)
    answer = stream(source, make_plan(), 3)
    next(answer)
    chunk_id = source.connection.thread_id()
    run_sql(chunk, f"KILL {chunk_id}")
    with pytest.raises((MySQLdb.OperationalError, SurpriseError)):
        list(answer)
    source.close()


def test_a_protocol_that_is_not_known_is_left_to_the_driver(
    chunk: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a server answers a client library that has agreed to send attributes with each query.
    monkeypatch.setattr(wire, "_QUERY", 0x7F)
    source = Source.open(chunk.connect)
    assert source.wire is None
    assert sum(len(rows) for rows in stream(source, make_plan(), 1)) == 30_000
    source.close()


def test_usable_asks_for_encryption_and_compression(worker: MariaDBServer, connection: Connection) -> None:
    assert usable(connection)
    assert not usable(object())
    with contextlib.closing(
        MySQLdb.connect(host="127.0.0.1", port=worker.port, user="root", passwd=worker.passwords["root"], compress=True)
    ) as compressed:
        assert not usable(compressed)


def test_nothing_is_yielded_of_a_chunk_with_a_wrong_type() -> None:
    # A plan of an INT key refuses a BIGINT table's values before they are cut.
    keys = np.array([1, 1 << 40])
    assert not extract._within(keys, make_plan(key_type="INT").key)
    with pytest.raises(DataError):
        extract.as_rows([(1 << 40, 1)], 1, "k", make_plan(key_type="INT").key, make_plan().sub_chunk)
