"""What a worker's server says of its chunk tables: their row counts, and whether they have changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import MySQLdb

from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import (
    UNKNOWN_VARIABLE,
    Connect,
    Connection,
    code_of,
    execute,
    query,
    query_whole,
    session,
)
from airflow_reindex.director.mysql.identifiers import quote

#: Chunk numbers are INT in the index.
MAX_CHUNK = (1 << 31) - 1
#: Workers that are asked for their tables at the same time.
THREADS = 8

#: Engines that store the exact number of rows.
_COUNTING_ENGINES = ("MyISAM", "Aria")
_FIGURES = (
    "ENGINE, TABLE_ROWS, DATA_LENGTH, CREATE_TIME, UPDATE_TIME, CREATE_OPTIONS, UPDATE_TIME < NOW() - INTERVAL 2 SECOND"
)


@dataclass(frozen=True)
class TableInfo:
    """
    What a worker's information_schema says of one chunk table.

    :param rows: exact if ``exact``, otherwise an estimate.
    :param fingerprint: an equal one proves that the table is unchanged; empty when the server cannot prove it.
    :param state: input of :func:`describe_change`; an equal one proves nothing.
    :param exact: whether the engine stores the number of rows.
    """

    rows: int
    fingerprint: str = ""
    state: str = ""
    exact: bool = False


#: {worker: {chunk: TableInfo}} of the workers that answered.
Inventory = Mapping[str, Mapping[int, TableInfo]]


def inventory(connection: Connection, request: BuildRequest) -> dict[int, TableInfo]:
    """
    A worker's chunk tables of the director table, by chunk number; overlap tables have other names.

    :raises DataError: when the list arrives incomplete.
    """
    prefix = f"{request.director_table}_"
    present_figures(connection)
    tables = "FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND LEFT(TABLE_NAME, %s) = %s"
    rows = query_whole(
        connection,
        f"SELECT TABLE_NAME, {_FIGURES} {tables}",
        f"SELECT COUNT(*) {tables}",
        (request.database, len(prefix), prefix),
    )
    result = {}
    for name, *figures in rows:
        number = re.fullmatch(r"\d{1,10}", str(name)[len(prefix) :])
        if number and str(name).startswith(prefix) and int(number[0]) <= MAX_CHUNK:
            result[int(number[0])] = _info(*figures)
    return result


def inventories(
    connects: Mapping[str, Connect], request: BuildRequest
) -> tuple[dict[str, dict[int, TableInfo]], dict[str, MySQLdb.Error]]:
    """The tables of each worker that answers, some asked at the same time, and the errors of those that do not."""

    def one(connect: Connect) -> dict[int, TableInfo]:
        with session(connect) as connection:
            return inventory(connection, request)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="reindex-inventory") as pool:
        answers = {worker: pool.submit(one, connect) for worker, connect in connects.items()}
    found, silent = {}, {}
    for worker, answer in answers.items():
        try:
            found[worker] = answer.result()
        except MySQLdb.Error as error:
            silent[worker] = error
    return found, silent


def table_info(connection: Connection, request: BuildRequest, chunk: int) -> TableInfo | None:
    """What the server says of one chunk table, after :func:`present_figures`; ``None`` when there is no such table."""
    rows = query(
        connection,
        f"SELECT {_FIGURES} FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",  # noqa: S608 - constants
        (request.database, f"{request.director_table}_{chunk}"),
    )
    return _info(*rows[0]) if rows else None


def count_rows(connection: Connection, request: BuildRequest, chunk: int) -> int:
    """Have the server count the rows of a chunk table."""
    table = quote(request.database, f"{request.director_table}_{chunk}")
    return int(query(connection, f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608 - names are quoted


def present_figures(connection: Connection) -> None:
    """Make information_schema answer with present figures: MySQL 8 caches them for up to a day."""
    try:
        execute(connection, "SET SESSION information_schema_stats_expiry = 0")
    except MySQLdb.Error as error:
        if code_of(error) != UNKNOWN_VARIABLE:
            raise


def cannot_tell(before: str, after: str) -> bool:
    """True when a write in between could not be seen: in a view, or in InnoDB after its server's restart."""
    (engine, *_, written), (*_, written_now) = before.split("|"), after.split("|")
    return not engine or bool(written and not written_now)


def describe_change(before: str, after: str) -> str:
    """The differences between an earlier and a later state, for people; empty when nothing proves a change."""
    names = ("engine", "rows", "bytes", "created", "written")
    parts = list(zip(names, before.split("|"), after.split("|"), strict=False))
    texts = [f"{name} {one} -> {other}" for name, one, other in parts if one and other and one != other]
    # InnoDB loses the time of the last write when the server restarts, and sets it with the next write.
    if len(parts) == len(names) and not parts[-1][1] and parts[-1][2]:
        texts.append(f"written {parts[-1][2]}")
    return ", ".join(texts)


def _info(
    engine: str | None, rows: int | None, length: int | None, created: Any, updated: Any, options: str, settled: Any
) -> TableInfo:
    exact = engine in _COUNTING_ENGINES
    # Other engines only estimate rows and length.
    size = f"{rows}|{length}" if exact else "|"
    state = f"{engine or ''}|{size}|{created or ''}|{updated or ''}"
    # UPDATE_TIME has whole seconds: within the last one it cannot show a later change. Where Aria logs its changes (its
    # default), it moves only with the next checkpoint.
    dated = engine == "MyISAM" or re.search(r"\btransactional=0\b", options or "", re.IGNORECASE)
    return TableInfo(int(rows or 0), state if exact and settled and dated else "", state, exact)
