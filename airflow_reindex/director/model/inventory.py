"""What a worker's server says of its chunk tables: how many rows, and whether they are what they were."""

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

#: Engines that keep the number of their rows.
_COUNTING_ENGINES = ("MyISAM", "Aria")
_FIGURES = (
    "ENGINE, TABLE_ROWS, DATA_LENGTH, CREATE_TIME, UPDATE_TIME, CREATE_OPTIONS, UPDATE_TIME < NOW() - INTERVAL 2 SECOND"
)


@dataclass(frozen=True)
class TableInfo:
    """
    What a worker's information_schema says of one chunk table.

    :param rows: rows in it: exact when ``exact``, else an estimate.
    :param fingerprint: an equal one proves that the table is unchanged; empty when the server cannot prove it.
    :param state: what :func:`describe_change` compares; an equal one proves nothing.
    :param exact: whether the engine keeps the number of rows.
    """

    rows: int
    fingerprint: str = ""
    state: str = ""
    exact: bool = False


#: {worker: {chunk: TableInfo}} of the workers that answered.
Inventory = Mapping[str, Mapping[int, TableInfo]]


def inventory(connection: Connection, request: BuildRequest) -> dict[int, TableInfo]:
    """
    List a worker's chunk tables of the director table. Overlap tables have other names and are never listed.

    :param connection: the worker.
    :param request: names the database and the director table.
    :returns: by chunk number.
    :raises DataError: the list does not come whole.
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
    """
    List the chunk tables of several workers, some at the same time.

    :param connects: how to connect to each worker.
    :param request: names the database and the director table.
    :returns: the tables of each worker that answers, and the errors of those that do not.
    """

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
    """
    Look at one chunk table.

    :param connection: the worker, of which :func:`present_figures` was asked.
    :param request: names the database and the director table.
    :param chunk: the chunk's number.
    :returns: what the server says of it; ``None`` when there is no such table.
    """
    rows = query(
        connection,
        f"SELECT {_FIGURES} FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",  # noqa: S608 - constants
        (request.database, f"{request.director_table}_{chunk}"),
    )
    return _info(*rows[0]) if rows else None


def count_rows(connection: Connection, request: BuildRequest, chunk: int) -> int:
    """
    Have the server count the rows of a chunk table.

    :param connection: the worker.
    :param request: names the database and the director table.
    :param chunk: the chunk's number.
    :returns: how many rows it has.
    """
    table = quote(request.database, f"{request.director_table}_{chunk}")
    return int(query(connection, f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608 - names are quoted


def present_figures(connection: Connection) -> None:
    """
    Have information_schema tell the present figures: MySQL 8 answers from ones that are up to a day old.

    :param connection: the server.
    """
    try:
        execute(connection, "SET SESSION information_schema_stats_expiry = 0")
    except MySQLdb.Error as error:
        if code_of(error) != UNKNOWN_VARIABLE:
            raise


def cannot_tell(before: str, after: str) -> bool:
    """
    Whether two states say nothing of writes in between: a view's, or InnoDB's whose server was restarted.

    :param before: from :class:`TableInfo`.
    :param after: from :class:`TableInfo`, later.
    """
    (engine, *_, written), (*_, written_now) = before.split("|"), after.split("|")
    return not engine or bool(written and not written_now)


def describe_change(before: str, after: str) -> str:
    """
    What has changed between two states of a table.

    :param before: from :class:`TableInfo`.
    :param after: from :class:`TableInfo`, later.
    :returns: the differences, for people; empty when nothing proves a change.
    """
    names = ("engine", "rows", "bytes", "created", "written")
    parts = list(zip(names, before.split("|"), after.split("|"), strict=False))
    texts = [f"{name} {one} -> {other}" for name, one, other in parts if one and other and one != other]
    # InnoDB forgets the time when the server restarts, and notes it with the next write.
    if len(parts) == len(names) and not parts[-1][1] and parts[-1][2]:
        texts.append(f"written {parts[-1][2]}")
    return ", ".join(texts)


def _info(
    engine: str | None, rows: int | None, length: int | None, created: Any, updated: Any, options: str, settled: Any
) -> TableInfo:
    exact = engine in _COUNTING_ENGINES
    # Of other engines rows and length are estimates.
    size = f"{rows}|{length}" if exact else "|"
    state = f"{engine or ''}|{size}|{created or ''}|{updated or ''}"
    # UPDATE_TIME has whole seconds: within the last one it cannot tell a later change. Where Aria logs its changes
    # (its default) it moves only with the next checkpoint.
    dated = engine == "MyISAM" or re.search(r"\btransactional=0\b", options or "", re.IGNORECASE)
    return TableInfo(int(rows or 0), state if exact and settled and dated else "", state, exact)
