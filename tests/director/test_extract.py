"""Rows from the driver to sorted runs: nothing that the index cannot hold, no chunk by halves."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import MySQLdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from MySQLdb.constants import FIELD_TYPE

from airflow_reindex.core.failures import ClaimLostError, DataError, SpaceError, TransientError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination.throttle import Watch
from airflow_reindex.director.extract import extractor, run_buffer
from airflow_reindex.director.extract.extractor import Extractor, stream, unaccounted
from airflow_reindex.director.extract.run_buffer import RunBuffer, layout
from airflow_reindex.director.extract.task import missing_chunks
from airflow_reindex.director.model import runs
from airflow_reindex.director.model.inventory import TableInfo
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.runs import RUNS, StagedChunk, accounted, manifests, read_part
from airflow_reindex.director.mysql import client, integer_reader
from airflow_reindex.director.mysql.client import is_transient
from airflow_reindex.director.mysql.integer_reader import IntegerReader
from airflow_reindex.director.mysql.tuples import as_rows
from airflow_reindex.director.mysql.types import Checksum, IntegerType, Rows
from tests.support.samples import TOKEN, Row, examples, make_plan, manifest, planned, rows_of, staged, tuples

BIGINT = IntegerType.parse("BIGINT", "k")
BIG_UNSIGNED = IntegerType.parse("BIGINT UNSIGNED", "k")
INT = IntegerType.parse("INT", "k")
TINY = IntegerType.parse("TINYINT UNSIGNED", "k")


@pytest.mark.parametrize(
    ("key", "sub_chunk", "batch"),
    [
        (BIGINT, INT, [(-(1 << 63), -(1 << 31)), ((1 << 63) - 1, (1 << 31) - 1)]),
        (BIG_UNSIGNED, INT, [((1 << 64) - 1, 0), (0, (1 << 31) - 1)]),
        (INT, TINY, [(-(1 << 31), 255), ((1 << 31) - 1, 0)]),
        (BIG_UNSIGNED, BIG_UNSIGNED, [((1 << 64) - 1, (1 << 64) - 1)]),
        (BIGINT, BIG_UNSIGNED, [(-1, (1 << 64) - 1)]),
        (BIG_UNSIGNED, INT, [((1 << 64) - 1, -1)]),
    ],
)
def test_extreme_values_are_kept(key: IntegerType, sub_chunk: IntegerType, batch: list[tuple[int, int]]) -> None:
    rows = as_rows(batch, 7, "k", key, sub_chunk)
    assert tuples(rows) == [(k, 7, s) for k, s in batch]
    assert (rows.key.dtype, rows.sub_chunk.dtype) == (key.dtype, sub_chunk.dtype)


@pytest.mark.parametrize(
    ("key", "sub_chunk", "batch", "message"),
    [
        (BIGINT, INT, [(1, 1), (None, 1), (None, 2)], "column 'k' is NULL in 2 row.s. of 3 read"),
        (BIGINT, INT, [(1, 1), (2, None)], "column 'subChunkId' is NULL in 1 row.s. of 2 read"),
        (BIG_UNSIGNED, INT, [(None, None)], "column 'k' is NULL"),
        (INT, INT, [(1 << 31, 1), (5, 1)], "column 'k' has 1 value.s. out of range for INT: 2147483648"),
        (INT, INT, [(-(1 << 31) - 1, 1)], "column 'k' has 1 value.s. out of range"),
        (BIGINT, INT, [(1 << 63, 1)], "column 'k' has 1 value.s. out of range for BIGINT: 9223372036854775808"),
        (BIGINT, INT, [(-(1 << 63) - 1, 1)], "column 'k' has 1 value"),
        (BIG_UNSIGNED, INT, [(-1, 1)], "column 'k' has 1 value.s. out of range for BIGINT UNSIGNED: -1"),
        (BIG_UNSIGNED, INT, [(1 << 64, 1)], "column 'k' has 1 value"),
        (
            BIGINT,
            TINY,
            [(1, 255), (1, 256)],
            "column 'subChunkId' has 1 value.s. out of range for TINYINT UNSIGNED: 256",
        ),
        (BIGINT, TINY, [(1, -1)], "column 'subChunkId' has 1 value"),
        (BIGINT, INT, [("abc", 1)], "column 'k' has 1 value.s. out of range for BIGINT: 'abc'"),
        (BIGINT, INT, [(1, b"abc")], "column 'subChunkId' has 1 value"),
        (BIGINT, INT, [(datetime.date(2026, 1, 1), 1)], "column 'k' has 1 value"),
        (BIGINT, INT, [(float("nan"), 1)], "column 'k' has 1 value"),
    ],
)
def test_what_the_index_cannot_hold_is_refused(
    key: IntegerType, sub_chunk: IntegerType, batch: list[tuple[Any, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        as_rows(batch, 7, "k", key, sub_chunk)


def test_a_long_list_of_bad_values_is_a_sample() -> None:
    with pytest.raises(DataError) as caught:
        as_rows([((1 << 40) + i, 1) for i in range(100)], 7, "k", INT, INT)
    assert "has 100 value(s)" in str(caught.value)
    assert str(caught.value).count(str(1 << 40)[:6]) == 5


CHUNK = st.tuples(
    st.lists(st.integers(0, 9), max_size=6).map(tuple),  # rows of each batch
    st.booleans(),  # whether it fails after these
)


def content(folder: Folder, name: str) -> list[Row]:
    return [row for piece in read_part(folder, name, None, None) for row in tuples(piece)]


@given(
    chunks=st.lists(CHUNK, max_size=10),
    capacity=st.sampled_from([1, 10, 13, 25, 1000]),
    file_rows=st.sampled_from([7, 10_000]),
)
@example(chunks=[], capacity=10, file_rows=7)
@example(chunks=[((), False)], capacity=10, file_rows=7)
@examples(80)
def test_manifests_hold_exactly_the_chunks_that_ended(
    tmp_path: Path, chunks: list[tuple[tuple[int, ...], bool]], capacity: int, file_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "GROUPS_IN_FILE", 1)
        collect(Folder.at(str(tmp_path / uuid4().hex)), make_plan(group_rows=file_rows), chunks, capacity)


def collect(folder: Folder, plan: Plan, chunks: list[tuple[tuple[int, ...], bool]], capacity: int) -> None:
    """Stage chunks, and check what is staged."""
    expected: dict[int, list[Row]] = {}
    with RunBuffer(folder, plan, 3, capacity) as buffer:
        key = 1_000_000
        for number, (batches, fails) in enumerate(chunks):
            rows: list[Row] = []
            for size in batches:
                batch = [(key - i * 7 % 1000, number, i) for i in range(size)]
                key -= 1
                rows += batch
                buffer.add(rows_of([r[0] for r in batch], [number] * size, [r[2] for r in batch]))
                assert buffer._used <= len(buffer._rows) == capacity
            if fails:
                buffer.drop_chunk()
                continue
            expected[number] = rows
            total = Checksum.of(rows_of([r[0] for r in rows], [number] * len(rows), [r[2] for r in rows]))
            buffer.end_chunk(StagedChunk(number, "w1", f"mark-{number}", total))
        buffer.flush()
    found = list(manifests(folder))
    assert Counter(c.chunk for m in found for c in m.chunks) == Counter(list(expected))
    assert accounted(found, TOKEN) == found
    for m in found:
        there = [row for file in m.files for row in content(folder, file.name)]
        assert Counter(there) == Counter(row for c in m.chunks for row in expected[c.chunk])
        whole = Checksum.of(rows_of([r[0] for r in there], [r[1] for r in there], [r[2] for r in there]))
        assert whole == sum((c.checksum for c in m.chunks), Checksum())
        assert (m.token, m.group, m.layout) == (TOKEN, 3, layout(plan))
    files = [file for m in found for file in m.files]
    most = min(capacity, plan.group_rows)
    assert all(0 < file.rows <= most for file in files), "a run is no larger than the memory"
    left = {f"{RUNS}/{name}" for name in folder.names(RUNS)}
    assert left == {m.name for m in found} | {file.name for file in files}, "files that no manifest names"
    assert buffer.written >= sum(file.bytes for file in files)


def test_a_dropped_part_of_a_large_chunk_leaves_no_file(folder: Folder) -> None:
    with RunBuffer(folder, make_plan(), 0, 10) as buffer:
        for _ in range(5):
            buffer.add(rows_of(range(10), [1] * 10, [0] * 10))
        assert len(folder.names(RUNS)) >= 3
        buffer.drop_chunk()
        buffer.flush()
    assert folder.names(RUNS) == []


def fill_disk(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """After so many runs there is no room for another one."""
    real = runs.write_run

    def write(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise SpaceError("no room")
        return real(*args)

    monkeypatch.setattr(run_buffer, "write_run", write)


def test_what_was_complete_before_an_error_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 3)

    def fill() -> None:
        with RunBuffer(folder, make_plan(), 0, 10) as buffer:
            for chunk in range(9):
                rows = rows_of(range(8), [chunk] * 8, [0] * 8)
                buffer.add(rows)
                buffer.end_chunk(staged(chunk, checksum=Checksum.of(rows)))
            buffer.flush()

    with pytest.raises(SpaceError):
        fill()
    found = list(manifests(folder))
    assert [[chunk.chunk for chunk in m.chunks] for m in found] == [[0], [1], [2]]
    assert [len(content(folder, file.name)) for m in found for file in m.files] == [8, 8, 8]


@pytest.mark.parametrize("good", [0, 1, 3, 4])
def test_a_part_that_cannot_be_written_leaves_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    fill_disk(monkeypatch, good)

    def fill() -> None:
        with RunBuffer(folder, make_plan(), 0, 10) as buffer:
            buffer.add(rows_of(range(45), [1] * 45, [0] * 45))
            buffer.end_chunk(staged(1))
            buffer.flush()

    with pytest.raises(SpaceError):
        fill()
    assert folder.names(RUNS) == []


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


def run(tables: Tables, folder: Folder, capacity: int = 20, **changes: Any) -> tuple[extractor.Outcome, list[Row]]:
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


def test_runs_of_other_columns_have_another_layout() -> None:
    plans = [
        make_plan(),
        make_plan(key_type="BIGINT UNSIGNED"),
        make_plan(key_column="id"),
        make_plan(sub_chunk_type="BIGINT NOT NULL"),
    ]
    assert len({layout(plan) for plan in plans}) == 4
    assert layout(make_plan(token="other")) == layout(make_plan())


def test_transient_errors_are_those_that_a_retry_may_mend() -> None:
    assert is_transient(TransientError("x"))
    assert not is_transient(DataError("x"))
