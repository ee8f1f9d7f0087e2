"""Rows read from the socket: the same as the driver gives, and never a wrong one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import MySQLdb
import numpy as np
import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination.throttle import Watch
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.extract.extractor import Extractor, stream
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.model.plan import PlannedChunk
from airflow_reindex.director.model.runs import RUNS, accounted, manifests, read_part
from airflow_reindex.director.mysql import binary_protocol, integer_reader
from airflow_reindex.director.mysql.binary_protocol import UnsupportedResultError, Wire, usable
from airflow_reindex.director.mysql.client import Connect, Connection, connected, query
from airflow_reindex.director.mysql.integer_reader import IntegerReader
from airflow_reindex.director.mysql.tuples import as_rows, within
from airflow_reindex.director.mysql.types import Checksum, Rows
from sandbox.servers.cluster import Sandbox
from sandbox.servers.servers import MariaDBServer
from tests.support.build import run_sql
from tests.support.samples import TOKEN, make_plan, planned, tuples

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
    worker: MariaDBServer, connection: Connection, buffer: int, count: int
) -> None:
    sql = f"SELECT seq, CAST(seq * 3 AS SIGNED) FROM mysql.seq_1_to_{max(count, 1)} WHERE seq <= {count}"
    # Definitions of columns must fit too.
    with Wire(connection, buffer_bytes=max(buffer, 200)) as reader:
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
    with Wire(connection) as reader, pytest.raises(UnsupportedResultError):
        rows(reader, sql)


def test_an_error_of_the_server_in_mid_answer_is_a_surprise(worker: MariaDBServer, connection: Connection) -> None:
    run_sql(worker, "CREATE TABLE lsst.big SELECT seq, seq AS other FROM mysql.seq_1_to_300000")
    with Wire(connection) as reader:
        answer = reader.stream("SELECT seq, other FROM lsst.big")
        next(answer)
        run_sql(worker, f"KILL {connection.thread_id()}")
        with pytest.raises((UnsupportedResultError, OSError)):
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


def extracted(
    connects: dict[str, Connect], folder: Folder, chunks: list[PlannedChunk], capacity: int = 7_000
) -> tuple[extractor.ExtractOutcome, list[Rows]]:
    """Extract chunks, of which each is larger than memory; the outcome, and what the manifests hold."""
    with RunBuffer(folder, make_plan([chunks]), 0, capacity) as buffer:
        outcome = Extractor(make_plan([chunks]), connects, buffer, Watch()).run(chunks)
    files = [file.name for m in accounted(manifests(folder), TOKEN) for file in m.files]
    return outcome, [piece for name in files for piece in read_part(folder, name, None, None)]


def reading(connect: Any) -> IntegerReader:
    """A reader of a server, connected."""
    reader = IntegerReader(lambda: connected(connect))
    assert reader.connection
    return reader


def test_socket_and_driver_give_the_same(chunk: MariaDBServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for by_socket in (True, False):
        monkeypatch.setattr(integer_reader, "usable", lambda _, answer=by_socket: answer)
        with contextlib.closing(reading(chunk.connect)) as reader:
            assert (reader._wire is not None) == by_socket
            found.append([row for some in stream(reader, make_plan(), 2) for row in tuples(some)])
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
        (
            "ALTER TABLE lsst.Object_1 MODIFY subChunkId BIGINT; UPDATE lsst.Object_1 SET subChunkId = 1 << 40",
            "out of range for INT: 1099511627776",
        ),
    ],
)
def test_what_the_driver_says_of_a_bad_chunk_is_reported(
    chunk: MariaDBServer, change: str, message: str, tmp_path: Any
) -> None:
    run_sql(chunk, *change.split("; "))
    outcome, pieces = extracted({"w1": chunk.connect}, Folder.at(str(tmp_path)), [planned(1), planned(2)], 10_000)
    (failure,) = outcome.failures
    assert failure.chunk == 1
    assert message in failure.message
    assert (outcome.chunks, outcome.rows) == (1, 30_000)
    assert sum(map(len, pieces)) == 30_000, "nothing of the bad chunk, the other one once"


def test_a_connection_that_dies_is_the_drivers_error(chunk: MariaDBServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_reader, "Wire", partial(Wire, buffer_bytes=4096))
    run_sql(chunk, "CREATE TABLE lsst.Object_3 SELECT seq AS objectId, 1 AS subChunkId FROM mysql.seq_1_to_900000")
    source = reading(chunk.connect)
    answer = stream(source, make_plan(), 3)
    next(answer)
    run_sql(chunk, f"KILL {source.connection.thread_id()}")
    with pytest.raises((MySQLdb.OperationalError, UnsupportedResultError)):
        list(answer)
    source.close()


def test_a_protocol_that_is_not_known_is_left_to_the_driver(
    chunk: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a server answers a client library that has agreed to send attributes with each query.
    monkeypatch.setattr(binary_protocol, "_QUERY", 0x7F)
    source = reading(chunk.connect)
    assert source._wire is None
    assert sum(len(rows) for rows in stream(source, make_plan(), 1)) == 30_000
    source.close()


@pytest.mark.parametrize("after", [0, 1, 3])
def test_rows_before_a_surprise_are_not_counted_twice(
    chunk: MariaDBServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, after: int
) -> None:
    monkeypatch.setattr(integer_reader, "Wire", partial(Wire, buffer_bytes=200_000))
    real, surprises = Wire.stream, list[str]()

    def stream(self: Wire, sql: str) -> Any:
        for number, some in enumerate(real(self, sql)):
            if number == after and not surprises:
                surprises.append(sql)
                raise UnsupportedResultError
            yield some

    monkeypatch.setattr(Wire, "stream", stream)
    connects: list[int] = []

    def connect() -> Connection:
        connects.append(1)
        return chunk.connect()

    # Parts of the first chunk were written before the surprise.
    folder = Folder.at(str(tmp_path))
    outcome, pieces = extracted({"w1": connect}, folder, [planned(1), planned(2)])
    assert len(surprises) == 1
    assert len(connects) == 3, "after the driver has read the odd chunk, the socket is used again"
    assert (outcome.chunks, outcome.rows, outcome.failures) == (2, 60_000, [])
    staged = accounted(manifests(folder), TOKEN)
    keys = np.concatenate([piece.key for piece in pieces])
    expected = np.concatenate([number * 10**6 + np.arange(1, 30_001) for number in (1, 2)])
    np.testing.assert_array_equal(np.sort(keys), expected)
    assert sum((c.checksum for m in staged for c in m.chunks), Checksum()) == sum(map(Checksum.of, pieces), Checksum())
    names = [name for m in staged for name in (m.name, *(file.name for file in m.files))]
    assert sorted(f"{RUNS}/{name}" for name in folder.names(RUNS)) == sorted(names)


@contextlib.contextmanager
def cut_off(port: int, after: int) -> Iterator[int]:
    """A way to a server that breaks when so many bytes have come from there; its port."""

    def forward(source: socket.socket, target: socket.socket, most: int | None) -> None:
        left = most
        with contextlib.suppress(OSError):
            while (left is None or left > 0) and (data := source.recv(min(65_536, left or 65_536))):
                target.sendall(data)
                left = None if left is None else left - len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = door.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for arguments in ((client, server, None), (server, client, after)):
                    threading.Thread(target=forward, args=arguments, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(door.getsockname()[1])
        door.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("after", [2_000, 100_000, 300_017])
def test_a_network_that_breaks_is_a_lost_connection_and_a_replica_takes_over(
    chunk: MariaDBServer, tmp_path: Any, after: int
) -> None:
    def connect(port: int) -> Connection:
        return MySQLdb.connect(host="127.0.0.1", port=port, user="root", passwd=chunk.passwords["root"])

    with cut_off(chunk.port, after) as port:
        source = reading(lambda: connect(port))
        assert source._wire is not None
        with pytest.raises(MySQLdb.OperationalError, match="Lost connection") as caught:
            list(stream(source, make_plan(), 1))
        assert caught.value.args[0] == 2013
        source.close()
        connects = {"w1": lambda: connect(port), "w2": chunk.connect}
        chunks = [planned(1, "w1", "w2"), planned(2, "w2", "w1")]
        outcome, pieces = extracted(connects, Folder.at(str(tmp_path)), chunks)
    assert (outcome.chunks, outcome.rows, outcome.failures) == (2, 60_000, [])
    keys = [key for piece in pieces for key in piece.key.tolist()]
    assert len(keys) == len(set(keys)) == 60_000


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
    assert not within(keys, make_plan(key_type="INT").key)
    with pytest.raises(DataError):
        as_rows([(1 << 40, 1)], 1, "k", make_plan(key_type="INT").key, make_plan().sub_chunk)
