"""A few idle connections for several threads. All are in autocommit mode: none stays idle in a transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from airflow_reindex.collections.pgvector.errors import translated

Connect = Callable[[], "psycopg.Connection[Any]"]
Statement = LiteralString | sql.SQL | sql.Composed

APPLICATION = "airflow-reindex"
#: More than this many idle connections are not kept.
_KEEP = 8
#: A client that freezes within a transaction would hold its locks for ever.
_SESSION = (
    f"SET application_name = '{APPLICATION}'; SET idle_in_transaction_session_timeout = '60s'; "
    "SET lock_timeout = '60s'; SET client_min_messages = 'warning'"
)


def connector(conninfo: str = "", **parameters: Any) -> Connect:
    """
    Make what opens connections for a store.

    A statement may rightly take hours without a byte on the wire (an index is built), so there is no time-out for
    answers: TCP tells whether the server's machine is there. Defaults, in seconds: ``connect_timeout`` 10,
    ``keepalives_idle`` 30, ``keepalives_interval`` 10; in milliseconds: ``tcp_user_timeout`` 120000, until a machine
    that acknowledges nothing, or a server that takes no byte, counts as away. The connection may name others.

    :param conninfo: libpq's connection string or URI.
    :param parameters: libpq's parameters; they win.
    :returns: a function that opens a connection, and gives up on a server that does not answer.
    """
    defaults = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 120_000,
        "application_name": APPLICATION,
    }

    def connect() -> psycopg.Connection[Any]:
        # What is passed by name would win over what the URI says.
        settings: dict[str, Any] = {**defaults, **conninfo_to_dict(conninfo), **parameters}
        return psycopg.connect(**settings, autocommit=True)

    return connect


class Connections:
    """
    Connections of a store.

    :param connect: opens one.
    :param label: what messages call the server.
    """

    def __init__(self, connect: Connect, label: str) -> None:
        self._connect, self.label = connect, label
        self._idle: deque[psycopg.Connection[Any]] = deque()

    @contextmanager
    def use(self) -> Iterator[psycopg.Connection[Any]]:
        """
        Lend a connection to a block, in autocommit mode; the driver's errors come out translated.

        :returns: a context manager.
        """
        with translated(self.label):
            connection = self._take()
            try:
                yield connection
            except psycopg.OperationalError:
                # Likely the server went away; the idle ones would fail next.
                self.close()
                raise
            finally:
                self._give_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """
        Lend a connection with a transaction that ends with the block.

        :returns: a context manager.
        """
        with self.use() as connection, connection.transaction():
            yield connection

    @contextmanager
    def own(self) -> Iterator[psycopg.Connection[Any]]:
        """
        Open a connection for a block alone, whose settings may be changed: it is closed in the end.

        :returns: a context manager.
        """
        with translated(self.label):
            connection = self._open()
            try:
                yield connection
            finally:
                connection.close()

    def rows(self, statement: Statement, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """
        Run one statement.

        :param statement: the statement.
        :param values: for its placeholders.
        :returns: all rows.
        """
        with self.use() as connection:
            return connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread was quicker
                return

    def _take(self) -> psycopg.Connection[Any]:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.closed:
                return connection
        return self._open()

    def _open(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.rollback()
            connection.autocommit = True
            # A plan for any value may do without the ANN index, and tables change under prepared statements.
            connection.prepare_threshold = None
            connection.execute(_SESSION)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: psycopg.Connection[Any]) -> None:
        clean = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
        if clean and len(self._idle) < _KEEP:
            self._idle.append(connection)
        else:
            connection.close()
