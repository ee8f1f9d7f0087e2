"""Statements on MySQL and MariaDB: a warning is an error, and an error's class says whether to retry."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import MySQLdb

from airflow_reindex.core.failures import Code, DataError, Reason, ReindexError, TransientError, reason_of
from airflow_reindex.director.mysql.session_settings import (
    IDLE_SECONDS,
    TRANSACTION_IDLE_SECONDS,
    TRANSACTIONS,
    pin_statement,
)

#: A DB-API connection of mysqlclient.
Connection = Any
#: Opens a new connection; raises the driver's error.
Connect = Callable[[], Connection]

#: Too many connections, shutdown in progress, network errors, lock wait timeout, deadlock, query interrupted,
#: connection killed. All client errors (2000 to 2099: cannot connect, gone, lost) are transient, too.
TRANSIENT_CODES = frozenset({1040, 1053, 1077, 1152, 1159, 1160, 1161, 1184, 1203, 1205, 1213, 1317, 1927})
NO_SUCH_TABLE = 1146
#: What DROP TABLE says of a missing table.
UNKNOWN_TABLE = 1051
LOCK_WAIT = 1205
DUPLICATE_KEY = 1062
TABLE_EXISTS = 1050
DATABASE_EXISTS = 1007
UNKNOWN_VARIABLE = 1193
#: What errors of servers are about, by their numbers.
_CODES = {
    DUPLICATE_KEY: Code.DUPLICATE_KEYS,
    **dict.fromkeys((1049, NO_SUCH_TABLE, 1932), Code.MISSING_TABLE),
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1698), Code.ACCESS),
    **dict.fromkeys((28, 135, 136, 1021, 1114), Code.DISK_FULL),
    **dict.fromkeys((0, 1040, 1053, 1152, 1159, 1161, 1203, 1927), Code.CONNECTION),
    1054: Code.BAD_DATA,
    **dict.fromkeys((LOCK_WAIT, 1213), Code.BUSY),
}
#: Of a temporary file, such as the binary log's cache, the server gives the system's error in its text alone.
_SYSTEM_FULL = re.compile(r"\b(Errcode:|OS errno|Got error) 28\b")


_TIMEVAL = struct.Struct("@ll")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """
    Timeouts of a connection, in seconds.

    A statement may legitimately take minutes without sending a byte, so silence alone proves nothing. Whether machine
    and network are there is checked by TCP itself, which needs no answer of the server's program.

    :param connect: for making a connection.
    :param answer: after which a server that does not answer, though its machine is reachable, counts as hung: longer
        than the longest statement.
    :param network: after which a machine that acknowledges nothing, or a server that accepts no byte, counts as
        unreachable.
    """

    connect: int = 10
    answer: int = 3_600
    network: int = 120

    @property
    def options(self) -> dict[str, int]:
        """The driver's options."""
        return {"connect_timeout": self.connect, "read_timeout": self.answer, "write_timeout": self.network}

    def apply(self, connection: Connection) -> None:
        """Set what the driver has no option for, on a fresh connection."""
        if not hasattr(connection, "fileno"):
            return
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(self.answer, 0))
            if own.family == socket.AF_UNIX:
                return
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            probe = max(1, self.network // 4)
            # Where the system knows TCP_USER_TIMEOUT, it also ends unacknowledged writes, which no keepalive probe
            # follows.
            for name, value in (
                ("TCP_KEEPIDLE", probe),
                ("TCP_KEEPINTVL", probe),
                ("TCP_KEEPCNT", 3),
                ("TCP_USER_TIMEOUT", self.network * 1_000),
            ):
                if hasattr(socket, name):
                    own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def answer_timeout(own: socket.socket) -> float | None:
    """The receive timeout of a connection's socket in seconds; ``None`` when there is none."""
    seconds, micro = _TIMEVAL.unpack(own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size))
    return seconds + micro / 1e6 or None


def code_of(error: BaseException) -> int:
    """The server's or client's error number; 0 when there is none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def describe(error: BaseException) -> str:
    """A driver's exception in Qserv's form: ``error: <text>, errno: <number>``."""
    if isinstance(error, MySQLdb.Error) and len(error.args) > 1:
        return f"error: {error.args[1]}, errno: {error.args[0]}"
    return str(error) or type(error).__name__


def mysql_reason(error: BaseException) -> Reason:
    """
    Find the reason for an error, MySQL's included.

    :param error: the exception; one of the driver's without a number is a mistake of the program.
    """
    if not (isinstance(error, MySQLdb.Error) and error.args and isinstance(error.args[0], int)):
        return reason_of(error)
    number, text = code_of(error), describe(error)
    if 2000 <= number < 2100:
        return Reason(Code.CONNECTION, text)
    code = Code.DISK_FULL if _SYSTEM_FULL.search(text) else Code.OTHER
    return Reason(_CODES.get(number, code), text)


def is_transient(error: BaseException) -> bool:
    """Whether a retry may help: for lost or refused connections, busy servers, deadlocks and timeouts."""
    if isinstance(error, ReindexError):
        return isinstance(error, TransientError)
    if isinstance(error, MySQLdb.Error):
        code = code_of(error)
        # The driver raises InterfaceError(0, '') on a connection that is closed already.
        return code in TRANSIENT_CODES or 2000 <= code < 2100 or code == 0
    return isinstance(error, ConnectionError | TimeoutError)


def prepare(connection: Connection) -> Connection:
    """Pin the :mod:`~airflow_reindex.director.mysql.session_settings`, in autocommit mode; returns the connection."""
    connection.autocommit(True)
    execute(connection, pin_statement(connection.character_set_name()))
    execute(connection, TRANSACTIONS)
    return connection


def query(connection: Connection, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Fetch the result of a statement with ``%s`` for values, and with quoted identifiers (``%`` doubled)."""
    with connection.cursor() as cursor:
        cursor.execute(sql, tuple(args))
        return list(cursor.fetchall())


def query_whole(connection: Connection, sql: str, count: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """
    Fetch a result, and prove that all of its rows have arrived.

    :param count: a statement that counts the rows, with the same values.
    :raises DataError: when the server counts another number, twice in a row.
    """
    for _ in range(2):
        rows = query(connection, sql, args)
        counted = int(query(connection, count, args)[0][0])
        if len(rows) == counted:
            return rows
    raise DataError(
        f"{len(rows):,} rows came of {counted:,} that the server counts: something between here and the server cuts "
        f"results, such as a proxy's limit of rows ({sql})",
        code=Code.INCOMPLETE_READ,
    )


def execute(connection: Connection, sql: str, args: Sequence[object] = ()) -> int:
    """
    Run a statement for its effect.

    :returns: the server's count of affected rows: a hint, never a proof.
    :raises DataError: when the server gave a warning.
    """
    with connection.cursor() as cursor:
        affected = int(cursor.execute(sql, tuple(args)))
        warnings = connection.warning_count()
    if warnings:
        shown = query(connection, "SHOW WARNINGS LIMIT 1")
        first = ",".join(str(part) for part in shown[0]) if shown else "not shown by the server"
        raise DataError(
            f"total number of problems: {warnings}, first problem (Level,Code,Message) was: {first}",
            code=Code.SERVER_WARNING,
        )
    return affected


def table_names(connection: Connection, database: str, prefix: str) -> list[str]:
    """The sorted names of a database's tables that start with a prefix, which is taken literally."""
    rows = query(
        connection,
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND LEFT(TABLE_NAME, %s) = %s",
        (database, len(prefix), prefix),
    )
    return sorted(str(name) for (name,) in rows if str(name).startswith(prefix))


def table_exists(connection: Connection, database: str, table: str) -> bool:
    """Whether a database has a table or view of this name."""
    return bool(
        query(
            connection,
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            (database, table),
        )
    )


def drop_table(connection: Connection, table: str) -> None:
    """Drop a table by its quoted name; no error when it is missing."""
    try:
        execute(connection, f"DROP TABLE {table}")
    except MySQLdb.Error as error:
        if code_of(error) not in (UNKNOWN_TABLE, NO_SUCH_TABLE):
            raise


def hang_up(connection: Connection) -> None:
    """Close a connection, even if it is closed already: the driver's error would hide why the work on it has failed."""
    with suppress(MySQLdb.Error):
        connection.close()


def connected(connect: Connect) -> Connection:
    """Open a prepared (:func:`prepare`) connection."""
    connection = connect()
    try:
        return prepare(connection)
    except BaseException:
        # Otherwise the connection would stay open as long as the traceback is alive.
        hang_up(connection)
        raise


@contextmanager
def session(connect: Connect) -> Iterator[Connection]:
    """A prepared connection for a block of work, closed at its end."""
    connection = connected(connect)
    try:
        yield connection
    finally:
        hang_up(connection)


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """A transaction that is rolled back when the block raises; the connection is in autocommit mode."""
    execute(connection, f"SET SESSION wait_timeout = {TRANSACTION_IDLE_SECONDS}")
    execute(connection, "START TRANSACTION")
    try:
        yield
    except BaseException:
        # A server that is unreachable has rolled back, or will, by itself.
        try:
            connection.rollback()
            execute(connection, f"SET SESSION wait_timeout = {IDLE_SECONDS}")
        except MySQLdb.Error:
            hang_up(connection)
        raise
    connection.commit()
    execute(connection, f"SET SESSION wait_timeout = {IDLE_SECONDS}")


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A read-only block whose statements see the same rows, where the tables' engine has transactions."""
    execute(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    try:
        yield
    finally:
        # A broken connection has ended the transaction, too.
        with suppress(MySQLdb.Error):
            connection.rollback()
