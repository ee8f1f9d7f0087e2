"""A pool of connections for several threads. All are in autocommit mode: none stays idle in a transaction."""

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
#: Most idle connections that are kept.
_KEEP = 8
_COMMANDS = f"SET statement_timeout = 0; SET application_name = '{APPLICATION}'; SET client_min_messages = 'warning'"
#: Settings that each session pins, whatever server, database or role say, each with its reason.
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
#: An asynchronous commit may be lost in a crash of the server although the task has succeeded.
_DURABLE = "synchronous_commit"
#: Only settings that the server knows and that differ: some can be set by a superuser alone, even to their present
#: value.
_PIN = """
    SELECT set_config(known.name, wanted.value, false)
    FROM pg_settings AS known JOIN unnest(%s::text[], %s::text[]) AS wanted (name, value) USING (name)
    WHERE known.setting <> wanted.value AND (known.name <> %s OR known.setting = 'off')
"""


def connector(conninfo: str = "", **parameters: Any) -> Connect:
    """
    Return a function that opens connections for a store.

    A statement may take hours without a byte on the wire (while an index is built), so there is no read timeout: TCP
    detects whether the server's machine is alive. Defaults in seconds: ``connect_timeout`` 10, ``keepalives_idle`` 30,
    ``keepalives_interval`` 10; in milliseconds: ``tcp_user_timeout`` 120000, until a peer that acknowledges nothing, or
    accepts no byte, counts as away. The connection may override them.

    :param conninfo: libpq's connection string or URI.
    :param parameters: libpq's parameters; they take precedence.
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
        # A keyword would override what the URI says.
        settings: dict[str, Any] = {**defaults, **conninfo_to_dict(conninfo), **parameters}
        return psycopg.connect(**settings, autocommit=True)

    return connect


class Connections:
    """
    Connections of a store.

    :param connect: opens one.
    :param label: name of the server in messages.
    """

    def __init__(self, connect: Connect, label: str) -> None:
        self._connect, self.label = connect, label
        self._idle: deque[psycopg.Connection[Any]] = deque()

    @contextmanager
    def use(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection in autocommit mode; the driver's errors are translated."""
        with translated(self.label):
            connection = self._take()
            try:
                yield connection
            except psycopg.OperationalError:
                # The server has probably gone away; the idle connections would fail next.
                self.close()
                raise
            finally:
                self._give_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection with a transaction that ends with the block."""
        with self.use() as connection, connection.transaction():
            yield connection

    @contextmanager
    def own(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a separate connection whose settings may be changed; it is closed afterwards."""
        with translated(self.label):
            connection = self._open()
            try:
                yield connection
            finally:
                connection.close()

    def rows(self, statement: Statement, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, and return all rows."""
        with self.use() as connection:
            return connection.execute(statement, values).fetchall()

    def close(self) -> None:
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
            # A generic plan may not use the ANN index, and tables change under prepared statements.
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
