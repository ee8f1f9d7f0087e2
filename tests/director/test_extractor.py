"""Chunks from their workers: each by the first replica that gives all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import MySQLdb
import pytest
from MySQLdb.constants import FIELD_TYPE

from airflow_reindex.core.failures import ClaimLostError, DataError, TransientError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination.throttle import Watch
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.extract.extractor import Extractor, stream, unaccounted
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.extract.task import missing_chunks
from airflow_reindex.director.model.inventory import TableInfo
from airflow_reindex.director.model.runs import accounted, manifests
from airflow_reindex.director.mysql import client, integer_reader
from airflow_reindex.director.mysql.client import is_transient
from airflow_reindex.director.mysql.integer_reader import IntegerReader
from airflow_reindex.director.mysql.types import Rows
from tests.support.samples import TOKEN, Row, content, make_plan, manifest, planned, tuples


class Tables:
    """Workers without servers: connections that answer from lists."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[int, list[tuple[Any, Any]]]] = {}
        self.breaks: dict[tuple[str, int], tuple[int, Exception]] = {}
        self.down: set[str] = set()
        self.types = (FIELD_TYPE.LONGLONG, FIELD_TYPE.LONG)
        self.opened: list[Connection] = []
        self.counts: dict[tuple[str, int], list[int]] = {}

    def info(self, connection: Connection, chunk: int) -> TableInfo:
        """What a worker says of a table, which counts its rows, rightly or not."""
        counts = self.counts.get((connection.worker, chunk), [])
        return TableInfo(counts.pop(0) if counts else len(self.tables[connection.worker][chunk]), exact=True)

    def connect(self, worker: str) -> Connection:
        if worker in self.down:
            raise MySQLdb.OperationalError(2003, "Can't connect")
        self.opened.append(Connection(self, worker))
        return self.opened[-1]


class Connection:
    """A connection, and a cursor as well."""

    def __init__(self, tables: Tables, worker: str) -> None:
        self.tables, self.worker, self.closed, self.cursors = tables, worker, False, 0
        self.description: tuple[tuple[str, int], ...] = ()

    def cursor(self, _: object) -> Connection:
        self.cursors += 1
        return Cursor(self.tables, self.worker, self)

    def close(self) -> None:
        self.closed = True


class Cursor(Connection):
    """A streaming cursor of one statement."""

    def __init__(self, tables: Tables, worker: str, parent: Connection) -> None:
        super().__init__(tables, worker)
        self.parent, self.given, self.chunk = parent, 0, 0

    def execute(self, sql: str, _: object) -> None:
        """Take the chunk's number from the statement."""
        self.chunk = int(sql.rsplit("_", 1)[1].strip("`"))
        self.description = tuple(zip(("objectId", "subChunkId"), self.tables.types, strict=True))

    def fetchmany(self, size: int) -> Sequence[tuple[Any, Any]]:
        after, error = self.tables.breaks.get((self.worker, self.chunk), (None, None))
        if error and after is not None and self.given >= after:
            raise error
        rows = self.tables.tables[self.worker][self.chunk][self.given : self.given + size]
        self.given += len(rows)
        return rows

    def close(self) -> None:
        self.parent.cursors -= 1


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Two workers that both have chunks 1 to 4, of 35 rows each."""
    monkeypatch.setattr(integer_reader, "FETCH_ROWS", 10)
    monkeypatch.setattr(client, "prepare", lambda connection: connection)
    monkeypatch.setattr(extractor, "present_figures", lambda _: None)
    monkeypatch.setattr(extractor, "table_info", lambda connection, _, chunk: connection.tables.info(connection, chunk))
    made = Tables()
    content = {chunk: [(chunk * 1000 + i, i) for i in range(35)] for chunk in range(1, 5)}
    made.tables = {"w1": dict(content), "w2": dict(content)}
    return made


def run(
    tables: Tables, folder: Folder, capacity: int = 20, **changes: Any
) -> tuple[extractor.ExtractOutcome, list[Row]]:
    """Extract all chunks; the outcome, and all rows that the manifests hold."""
    chunks = [planned(chunk, "w1", "w2") for chunk in range(1, 5)]
    connects = {worker: (lambda name=worker: tables.connect(name)) for worker in tables.tables}
    with RunBuffer(folder, make_plan([chunks]), 0, capacity) as buffer:
        outcome = Extractor(make_plan([chunks], **changes), connects, buffer, Watch()).run(chunks)
    assert all(connection.closed for connection in tables.opened)
    assert all(connection.cursors == 0 for connection in tables.opened)
    rows = [row for m in accounted(manifests(folder), TOKEN) for f in m.files for row in content(folder, f.name)]
    return outcome, sorted(rows)


def truth(*chunks: int) -> list[Row]:
    """The rows of some chunks."""
    return [(chunk * 1000 + i, chunk, i) for chunk in chunks for i in range(35)]


@pytest.mark.parametrize("capacity", [10, 40, 1000])
@pytest.mark.parametrize("after", [0, 10, 30])
def test_a_replica_takes_over_in_mid_chunk(tables: Tables, folder: Folder, after: int, capacity: int) -> None:
    tables.breaks["w1", 2] = (after, MySQLdb.OperationalError(2013, "Lost connection"))
    outcome, rows = run(tables, folder, capacity)
    assert rows == truth(1, 2, 3, 4)
    assert (outcome.chunks, outcome.rows, outcome.failures) == (4, 140, [])


def test_a_chunk_that_fails_everywhere_is_told_with_each_worker(tables: Tables, folder: Folder) -> None:
    tables.tables["w1"][3] = [*tables.tables["w1"][3][:-1], (None, 1)]
    tables.breaks["w2", 3] = (20, MySQLdb.OperationalError(2013, "Lost connection"))
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 2, 4)
    assert [(f.worker, f.chunk) for f in outcome.failures] == [("w1", 3), ("w2", 3)]
    assert "column 'objectId' is NULL" in outcome.failures[0].message
    assert outcome.failures[1].message == "error: Lost connection, errno: 2013"
    assert outcome.transient


def test_bad_data_everywhere_is_no_reason_to_retry(tables: Tables, folder: Folder) -> None:
    for worker in ("w1", "w2"):
        tables.tables[worker][3] = [(1, 1 << 31)]
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 2, 4)
    assert not outcome.transient


def test_a_replica_takes_over_from_a_damaged_table(tables: Tables, folder: Folder) -> None:
    tables.counts["w1", 2] = [70, 70]
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 2, 3, 4)
    assert outcome.failures == []


@pytest.mark.parametrize("counts", [[34, 34], [36, 36]])
def test_a_count_that_differs_everywhere(tables: Tables, folder: Folder, counts: list[int]) -> None:
    tables.counts = {(worker, 2): list(counts) for worker in ("w1", "w2")}
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 3, 4)
    assert [(f.worker, f.chunk) for f in outcome.failures] == [("w1", 2), ("w2", 2)]
    assert f"35 rows were read, the table has {counts[0]}: it is damaged" in outcome.failures[0].message
    assert not outcome.transient


def test_a_table_that_changes_in_between_is_read_once_more(tables: Tables, folder: Folder) -> None:
    tables.counts["w1", 2] = [34]
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 2, 3, 4)
    assert [connection.worker for connection in tables.opened] == ["w1"]
    assert outcome.failures == []


def test_a_table_that_keeps_changing_may_be_well_later(tables: Tables, folder: Folder) -> None:
    tables.counts = {(worker, 2): [33, 34] for worker in ("w1", "w2")}
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 3, 4)
    assert "it changes while it is read" in outcome.failures[0].message
    assert outcome.transient


def test_a_worker_that_is_down_is_asked_once(tables: Tables, folder: Folder) -> None:
    tables.down = {"w1"}
    outcome, rows = run(tables, folder)
    assert rows == truth(1, 2, 3, 4)
    assert outcome.failures == []
    assert [connection.worker for connection in tables.opened] == ["w2"]


def test_a_lost_claim_stops_the_work_and_closes_connections(tables: Tables, folder: Folder) -> None:
    class Gone(Watch):
        def check(self) -> None:
            raise ClaimLostError("another run took over")

    chunks = [planned(1, "w1")]
    with RunBuffer(folder, make_plan([chunks]), 0, 20) as buffer, pytest.raises(ClaimLostError):
        Extractor(make_plan([chunks]), {"w1": lambda: tables.connect("w1")}, buffer, Gone()).run(chunks)
    assert all(connection.closed for connection in tables.opened)
    assert list(manifests(folder)) == []


@pytest.mark.parametrize("types", [(FIELD_TYPE.DOUBLE, FIELD_TYPE.LONG), (FIELD_TYPE.LONG, FIELD_TYPE.VAR_STRING)])
def test_columns_that_are_no_integers_are_refused(tables: Tables, types: tuple[int, int]) -> None:
    tables.types = types
    connection = tables.connect("w1")
    with pytest.raises(DataError, match=r"column '.*' of table 'Object_1' is not an integer column"):
        list(stream(IntegerReader(lambda: connection), make_plan(), 1))
    assert connection.cursors == 0


def test_a_stream_gives_batches(tables: Tables) -> None:
    batches: list[Rows] = list(stream(IntegerReader(lambda: tables.connect("w1")), make_plan(), 2))
    assert [len(batch) for batch in batches] == [10, 10, 10, 5]
    assert [row for batch in batches for row in tuples(batch)] == truth(2)


def test_a_connection_that_breaks_before_its_first_use_is_not_kept(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = MySQLdb.OperationalError(2013, "Lost connection")
    monkeypatch.setattr(integer_reader, "usable", mock.Mock(side_effect=[lost, False]))
    reader = IntegerReader(lambda: tables.connect("w1"))
    with pytest.raises(MySQLdb.OperationalError):
        list(stream(reader, make_plan(), 1))
    assert [connection.closed for connection in tables.opened] == [True]
    assert [row for batch in stream(reader, make_plan(), 1) for row in tuples(batch)] == truth(1)


def test_missing_chunks_keep_their_order() -> None:
    group = [planned(chunk) for chunk in (3, 1, 9, 7)]
    staged = [manifest("a", [1, 2]), manifest("b", [7]), manifest("c", [])]
    assert [c.chunk for c in missing_chunks(group, staged)] == [3, 9]
    assert missing_chunks(group, []) == group
    assert missing_chunks([], staged) == []


def test_unaccounted_are_those_of_all_groups() -> None:
    plan = make_plan([[planned(9), planned(1)], [planned(4)], [planned(2)]])
    assert unaccounted(plan.groups, [manifest("a", [1, 2, 77])]) == [4, 9]
    assert unaccounted(plan.groups, [manifest("a", [1, 2]), manifest("b", [4, 9])]) == []


def test_transient_errors_are_those_that_a_retry_may_mend() -> None:
    assert is_transient(TransientError("x"))
    assert not is_transient(DataError("x"))
