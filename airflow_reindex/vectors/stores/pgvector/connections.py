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

from airflow_reindex.vectors.stores.pgvector.errors import translated

Connect = Callable[[], "psycopg.Connection[Any]"]
Statement = LiteralString | sql.SQL | sql.Composed

APPLICATION = "airflow-reindex"
#: More than this many idle connections are not kept.
_KEEP = 8
_COMMANDS = f"SET statement_timeout = 0; SET application_name = '{APPLICATION}'; SET client_min_messages = 'warning'"
#: What a session pins, whatever the server, the database or the role say, each with its reason.
SETTINGS = {
    "statement_timeout": ("0", "an index is built for hours"),
    "transaction_timeout": ("0", "a window is one transaction"),
    "idle_session_timeout": ("0", "connections are kept for the next use"),
    "idle_in_transaction_session_timeout": ("60000", "a client that freezes would hold its locks for ever"),
    "lock_timeout": ("60000", "a lock that nobody gives back would be waited for for ever"),
    "default_transaction_isolation": ("read committed", "each statement sees what the last one's lock waited for"),
    "default_transaction_read_only": ("off", "windows are written"),
    "default_transaction_deferrable": ("off", "a snapshot would wait for all writers"),
    "row_security": ("off", "policies would hide rows without an error; now they are an error"),
    "transform_null_equals": ("off", "a comparison with NULL would mean another thing"),
    "standard_conforming_strings": ("on", "backslashes in texts would be eaten"),
    "DateStyle": ("ISO, MDY", "the driver reads dates so"),
    "TimeZone": ("UTC", "times would depend on who asks"),
    "extra_float_digits": ("1", "numbers would be rounded"),
    "session_replication_role": ("origin", "foreign keys and triggers would be off"),
    "zero_damaged_pages": ("off", "damaged pages would be read as empty ones, without an error"),
    "ignore_checksum_failure": ("off", "damaged pages would be read as they are, without an error"),
}
#: A commit that an asynchronous one promises may be gone after the server's crash, though the task has succeeded.
_DURABLE = "synchronous_commit"
#: Only what the server knows and what differs: some may be set by a superuser alone, even to what they are.
_PIN = """
    SELECT set_config(known.name, wanted.value, false)
    FROM pg_settings AS known JOIN unnest(%s::text[], %s::text[]) AS wanted (name, value) USING (name)
    WHERE known.setting <> wanted.value AND (known.name <> %s OR known.setting = 'off')
"""


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
            connection.execute(_COMMANDS)
            names, values = [*SETTINGS, _DURABLE], [*(value for value, _ in SETTINGS.values()), "on"]
            connection.execute(_PIN, (names, values, _DURABLE))
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
