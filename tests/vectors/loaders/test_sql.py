"""Contents in a database: SQLite for what is the same everywhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.vectors.embedding.loaders.settings import SqlSettings
from airflow_reindex.vectors.embedding.loaders.sql import BATCH, SqlLoader
from airflow_reindex.vectors.model.loader import Content, Loader
from tests.support.loader_samples import item, told

QUERY = "SELECT id, body FROM docs WHERE id IN ({ids})"


class Database:
    """SQLite in a file, with a count of statements and faults to order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[int] = []
        self.faults: list[Exception] = []

    def execute(self, statement: str) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.executescript(statement)

    def __call__(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.asked.append(len(values))
        if self.faults:
            raise self.faults.pop(0)
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def loader(self, query: str = QUERY, **settings: Any) -> Loader:
        return SqlLoader(SqlSettings(conn_id="db", query=query, **settings), self, "?", pause=0.0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(tmp_path / "db")
    made.execute(
        "CREATE TABLE docs (id, body, seen); INSERT INTO docs VALUES (1, 'one', 10), (2, 'two', NULL), ('x', 'ex', 12),"
        "(3, NULL, 1), (4, 'a', 1), (4, 'b', 2), (5, 55, 1), (6, x'ff', 1), (7, x'c3a9', 1), (8, '', 1)"
    )
    return made


def ids(*keys: str) -> list[Any]:
    """Items whose ids are the rows'."""
    return [item(key) for key in keys]


def test_integers_and_texts(database: Database) -> None:
    numbers = database.loader(id_type="integer")
    assert told(numbers.load(ids("2", "1", "x", "-9", "1"))) == [
        "two", "one", "!the id 'x' is no whole number.", "!the query gives no row for the id '-9'.", "one"
    ]  # fmt: skip
    assert told(database.loader().load(ids("x"))) == ["ex"]
    assert told(numbers.load(ids("0001"))) == ["one"]
    assert database.asked == [3, 1, 1]


def test_what_concerns_one_item(database: Database) -> None:
    answers = told(database.loader(id_type="integer").load(ids("3", "4", "5", "6", "7", "8", "1")))
    assert answers == [
        "!the text of the id '3' is NULL.",
        "!the query gives 2 rows for the id '4'.",
        "!the text of the id '5' is no text, but int.",
        "!the text of the id '6' is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte.",
        "é",
        "",
        "one",
    ]


def test_versions(database: Database) -> None:
    hashed = database.loader(id_type="integer")
    contents = hashed.load(ids("1", "2"))
    assert all(isinstance(content, Content) and len(content.version) == 16 for content in contents)
    assert hashed.versions(ids("1", "2")) == [content.version for content in contents]  # type: ignore[union-attr]
    database.execute("UPDATE docs SET body = 'uno' WHERE id = 1")
    assert hashed.versions(ids("1")) != [contents[0].version]  # type: ignore[union-attr]

    told_by_row = database.loader("SELECT id, body, seen FROM docs WHERE id IN ({ids})", id_type="integer")
    assert told_by_row.load(ids("1")) == [Content("uno", "10")]
    assert told(told_by_row.load(ids("2"))) == ["!the version of the id '2' is NULL."]


def test_a_query_for_versions_alone(database: Database) -> None:
    cheap = database.loader(
        "SELECT id, body, seen FROM docs WHERE id IN ({ids})",
        version_query="SELECT id, seen FROM docs WHERE id IN ({ids})",
        id_type="integer",
    )
    assert told(cheap.versions(ids("1", "2", "9"))) == [
        "10", "!the version of the id '2' is NULL.", "!the query gives no row for the id '9'."
    ]  # fmt: skip
    with pytest.raises(RequestError, match="must give 3 columns, not 2"):
        database.loader(version_query=QUERY, id_type="integer").load(ids("1"))


def test_ids_from_fields(database: Database) -> None:
    made = database.loader(id_field="at.id", id_type="integer")
    items = [
        item("a", meta={"at": {"id": 1}}, payload={"at": {"id": 2}}),
        item("b", payload={"at": {"id": "2"}}),
        item("c", meta={"at": {}}),
        item("d", meta={"at": {"id": True}}),
        item("e", meta={"at": {"id": 1}}),
    ]
    lost = "!neither the storage metadata nor the payload has an id in 'at.id'."
    assert told(made.load(items)) == ["one", "two", lost, lost, "one"]
    assert database.asked == [2]


def test_one_poisonous_id_fails_alone(database: Database) -> None:
    keys = [str(number) for number in range(1000, 1300)]
    rows = ", ".join(f"({key}, 'text {key}', 1)" for key in keys)
    database.execute(f"INSERT INTO docs VALUES {rows}")
    keys[123] = "9" * 30  # sqlite3 raises OverflowError
    answers = database.loader(id_type="integer").load(ids(*keys))
    bad = [(number, answer) for number, answer in enumerate(answers) if isinstance(answer, DataError)]
    assert [number for number, _ in bad] == [123]
    assert str(bad[0][1]).startswith(f"the database refuses the id '{'9' * 30}': ")
    assert len(database.asked) < 20, "halved, not one by one"


def test_when_all_ids_are_refused_the_definition_is_wrong(database: Database) -> None:
    with pytest.raises(RequestError, match="all 3 ids of a batch were refused, the first: the database refuses"):
        database.loader(id_type="integer").load(ids("9" * 30, "8" * 30, "7" * 30))


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
def test_ids_that_no_driver_takes(database: Database, key: str) -> None:
    answers = told(database.loader().load(ids("x", key)))
    assert answers[0] == "ex"
    assert answers[1].startswith("!")


def test_values_are_bound(database: Database) -> None:
    evil = "x') OR 1=1 --"
    assert told(database.loader().load(ids(evil))) == [f"!the query gives no row for the id '{evil}'."]


def test_batches(database: Database) -> None:
    keys = [str(number) for number in range(10, 10 + BATCH * 2 + 1)]
    database.loader(id_type="integer").load(ids(*keys))
    assert database.asked == [BATCH, BATCH, 1]
    assert database.loader().load([]) == []


class OperationalError(sqlite3.DatabaseError):
    """What a driver calls a lost connection."""


class ProgrammingError(sqlite3.DatabaseError):
    """What a driver calls a query that makes no sense."""


def with_state(error: Exception, state: str) -> Exception:
    """As psycopg tells SQLSTATE."""
    error.sqlstate = state  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "kind", "code", "tries"),
    [
        (OperationalError(2006, "gone away"), TransientError, "connection", 3),
        (with_state(OperationalError("server closed"), "08006"), TransientError, "connection", 3),
        (OperationalError("too many at work"), TransientError, "busy", 3),
        (ConnectionResetError("reset"), TransientError, "connection", 3),
        (OperationalError(1045, "access denied"), RequestError, "access", 1),
        (OperationalError(1054, "unknown column"), RequestError, "refused", 1),
        (with_state(OperationalError("password"), "28P01"), RequestError, "access", 1),
        (with_state(OperationalError("no such database"), "3D000"), RequestError, "refused", 1),
        (ProgrammingError("syntax"), RequestError, "refused", 1),
        (TypeError("not enough arguments for format string"), RequestError, "refused", 1),
        (RequestError("from the hook"), RequestError, "refused", 1),
        (ZeroDivisionError("a bug"), ZeroDivisionError, None, 1),
    ],
)
def test_errors_by_class(
    database: Database, error: Exception, kind: type[Exception], code: str | None, tries: int
) -> None:
    database.faults = [error] * 5
    with pytest.raises(kind) as caught:
        database.loader().load(ids("x", "y"))
    assert getattr(caught.value, "code", None) == code
    assert len(database.asked) == tries


def test_what_passes_is_tried_again(database: Database) -> None:
    database.faults = [OperationalError("away"), OperationalError("still")]
    assert told(database.loader().load(ids("x"))) == ["ex"]


def test_sqlites_own_errors(database: Database) -> None:
    for query in ("SELECT id, nothing FROM docs WHERE id IN ({ids})", "SELECTED {ids}"):
        with pytest.raises(RequestError, match="the database of 'db': "):
            database.loader(query).load(ids("x"))
    holder = sqlite3.connect(database.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(TransientError, match="locked"):
            SqlLoader(
                SqlSettings(conn_id="db", query=QUERY),
                lambda text, values: sqlite3.connect(database.path, timeout=0).execute(text, values).fetchall(),
                "?",
                pause=0.0,
            ).load(ids("x"))
    finally:
        holder.close()


@pytest.mark.parametrize("query", ["SELECT 1", "SELECT {ids} IN ({ids})"])
def test_queries_have_one_place_for_ids(database: Database, query: str) -> None:
    for settings in (
        SqlSettings(conn_id="db", query=query),
        SqlSettings(conn_id="db", query=QUERY, version_query=query),
    ):
        with pytest.raises(RequestError, match=r"must have '\{ids\}' once"):
            SqlLoader(settings, database)


def test_the_number_of_columns_is_checked(database: Database) -> None:
    with pytest.raises(RequestError, match="must give 2 or 3 columns, not 1"):
        database.loader("SELECT id FROM docs WHERE id IN ({ids})").load(ids("x"))


def test_the_config_has_what_changes_contents(database: Database) -> None:
    assert database.loader().config != database.loader(id_type="integer").config
    assert database.loader().config == database.loader(version_query=QUERY).config
    assert database.loader().outside
