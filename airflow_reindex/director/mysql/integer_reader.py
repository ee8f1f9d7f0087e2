"""Rows of integers: from a connection's socket where possible, otherwise with the driver."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import MySQLdb
from MySQLdb.constants import CR, FIELD_TYPE
from MySQLdb.cursors import SSCursor

from airflow_reindex.core.failures import DataError
from airflow_reindex.director.mysql.binary_protocol import UnsupportedResultError, Wire, usable
from airflow_reindex.director.mysql.client import Connect, Connection, hang_up, is_transient
from airflow_reindex.director.mysql.tuples import within
from airflow_reindex.director.mysql.types import IntegerType, Rows

log = logging.getLogger(__name__)

#: The protocol's integer types: a DOUBLE would silently be cut to an integer.
INTEGER_FIELDS = frozenset({FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG})
#: Rows fetched from the driver at a time: Python objects live no longer than one such batch.
FETCH_ROWS = 50_000

T = TypeVar("T")


@dataclass(frozen=True)
class IntegerQuery:
    """
    A statement without parameters, and how its result becomes rows.

    :param sql: as for the driver, with ``%`` doubled in names.
    :param table: what it reads, for messages.
    :param types: the types that its columns must fit.
    :param of_columns: makes rows of its columns, which are arrays of these types.
    :param of_tuples: makes rows of what the driver fetched, which may be of any type, or NULL.
    """

    sql: str
    table: str
    types: tuple[IntegerType, ...]
    of_columns: Callable[..., Rows]
    of_tuples: Callable[[Sequence[Any]], Rows]


class IntegerReader:
    """
    Reads integer rows over a connection of its own, which is opened when it is needed and has to be closed.

    What the socket cannot give, such as a NULL or a server's error, is left to the driver, which knows it or names the
    cause. Some rows may have been given by then, so that the work with them begins anew: see :meth:`complete`.

    :param connect: opens a prepared connection.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._wire: Wire | None = None
        self._driver_only = False

    @property
    def connection(self) -> Connection:
        """The connection, for other statements too."""
        if self._connection is None:
            self._connection = self._connect()
            try:
                if not self._driver_only and usable(self._connection):
                    self._wire = Wire(self._connection)
            except (UnsupportedResultError, OSError):
                # Client library and server have negotiated a protocol that is not known here.
                self.close()
                self._connection = self._connect()
            except BaseException:
                # The next statement would run on a connection that is broken, or by the driver alone.
                self.close()
                raise
        return self._connection

    def close(self) -> None:
        """Close the connection; the next statement opens another one."""
        if self._wire is not None:
            self._wire.close()
        if self._connection is not None:
            hang_up(self._connection)
        self._connection = self._wire = None

    def complete(self, work: Callable[[], T], undo: Callable[[], None] = lambda: None) -> T:
        """
        Do work that uses up results; do it again with the driver when the socket could not give one of them.

        :param undo: called in between.
        """
        try:
            return work()
        except UnsupportedResultError:
            self.close()
        undo()
        self._driver_only = True
        try:
            return work()
        finally:
            self._driver_only = False
            self.close()

    def rows(self, query: IntegerQuery) -> Iterator[Rows]:
        """
        Stream a result, some rows at a time.

        :raises DataError: when a column is no integer, or as ``of_tuples`` does.
        """
        connection, wire, whole = self.connection, self._wire, False
        try:
            yield from _from_wire(wire, query) if wire is not None else _from_driver(connection, query)
            whole = True
        finally:
            broken = not whole and (wire is not None or is_transient(sys.exception() or OSError()))
            if broken and self._connection is connection:
                # The rest of the answer would be taken for the next statement's.
                self.close()


def _from_wire(wire: Wire, query: IntegerQuery) -> Iterator[Rows]:
    try:
        # This statement is not formatted: a doubled percent sign of a quoted name must be a single one.
        for columns in wire.stream(query.sql.replace("%%", "%")):
            typed = list(zip(columns, query.types, strict=True))
            if not all(within(values, kind) for values, kind in typed):
                raise UnsupportedResultError
            yield query.of_columns(*(values.astype(kind.dtype, copy=False) for values, kind in typed))
    except OSError as error:
        raise MySQLdb.OperationalError(CR.SERVER_LOST, f"Lost connection to server during query ({error})") from error


def _from_driver(connection: Connection, query: IntegerQuery) -> Iterator[Rows]:
    cursor = connection.cursor(SSCursor)
    try:
        cursor.execute(query.sql, ())
        for name, kind, *_ in cursor.description:
            if kind not in INTEGER_FIELDS:
                raise DataError(f"column '{name}' of table '{query.table}' is not an integer column")
        while batch := cursor.fetchmany(FETCH_ROWS):
            yield query.of_tuples(batch)
    finally:
        # Closing reads the rest of the result; on a broken connection there is none.
        try:
            cursor.close()
        except MySQLdb.Error:
            log.debug("closing a cursor of table %s failed", query.table, exc_info=True)
