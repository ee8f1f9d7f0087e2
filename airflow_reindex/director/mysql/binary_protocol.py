"""
Integer columns of a result, decoded as arrays straight from a connection's socket.

A driver makes Python objects of each row, which costs more than everything else in the extraction. In the binary
protocol of prepared statements, rows of integers that are not NULL have one size, so that a buffer full of them is an
array. The driver's connection stays usable: the answer to a statement is read completely before anything else uses the
socket.

Source of the format: MariaDB's documentation, "Client/Server Protocol": COM_STMT_PREPARE, COM_STMT_EXECUTE, "Result Set
Packets", "Binary Resultset Row".
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from MySQLdb.constants import FIELD_TYPE, FLAG

from airflow_reindex.director.mysql.client import Connection, answer_timeout, query

_QUERY, _PREPARE, _EXECUTE, _CLOSE = 0x03, 0x16, 0x17, 0x19
_OK, _END, _ERROR = 0x00, 0xFE, 0xFF
_SIZES = {
    FIELD_TYPE.TINY: 1,
    FIELD_TYPE.SHORT: 2,
    FIELD_TYPE.INT24: 4,
    FIELD_TYPE.LONG: 4,
    FIELD_TYPE.LONGLONG: 8,
}
BUFFER_BYTES = 1 << 20


class UnsupportedResultError(Exception):
    """
    The answer is not rows of one size: a NULL, another type, or an error of the server.

    The connection is in the middle of the answer and must be closed; the driver can repeat the statement and name the
    cause.
    """


def usable(connection: Connection) -> bool:
    """Whether results can be read from the connection's socket: neither encrypted nor compressed."""
    if not hasattr(connection, "fileno"):
        return False
    rows = query(connection, "SHOW SESSION STATUS WHERE Variable_name IN ('Ssl_cipher', 'Compression')")
    found = {str(name).lower(): str(value) for name, value in rows}
    return found.get("ssl_cipher") == "" and found.get("compression", "").upper() == "OFF"


class Wire:
    """
    Reads results from a connection's socket, one statement after the other; a context manager.

    :param connection: one that is :func:`usable`, with no statement under way.
    :param buffer_bytes: at least the length of any packet.
    :raises UnsupportedResultError: when its protocol is not known; the connection must be closed.
    """

    def __init__(self, connection: Connection, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._encoding = getattr(connection, "encoding", "utf8")
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        seconds = answer_timeout(self._socket)
        self._timeout = None if seconds is None else max(1, int(seconds * 1_000))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._buffer = bytearray(buffer_bytes)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._unsent = b""
        try:
            self._marks_end = self._ask_for_marks()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this copy of the socket; the connection stays open."""
        with suppress(OSError):
            self._socket.sendall(self._unsent)
        self._socket.close()

    def stream(self, sql: str) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        """
        Run a statement without parameters.

        :param sql: the statement, taken literally; its columns are integers.
        :yields: one array per column, of equal length and the column's own type; at most a buffer full of rows.
        :raises UnsupportedResultError: when the answer is something else.
        :raises OSError: when the connection broke.
        """
        statement, kinds = self._prepare(sql)
        self._send(_EXECUTE, statement + struct.pack("<BI", 0, 1))
        self._skip_columns()
        yield from self._rows(kinds)
        # The server does not answer this command, so it can be sent with the next one.
        self._unsent = _command(_CLOSE, statement)

    def _prepare(self, sql: str) -> tuple[bytes, list[str]]:
        self._send(_PREPARE, sql.encode(self._encoding))
        answer = self._packet()
        if answer[0] != _OK:
            raise UnsupportedResultError
        columns, parameters = struct.unpack_from("<HH", answer, 5)
        definitions = [self._packet() for _ in range(columns)]
        if columns and self._marks_end:
            self._packet()
        if parameters:
            raise UnsupportedResultError
        return answer[1:5], [_kind(definition) for definition in definitions]

    def _skip_columns(self) -> None:
        answer = self._packet()
        if answer[0] in (_OK, _ERROR):
            raise UnsupportedResultError
        # MariaDB does not repeat the column definitions that it sent when the statement was prepared; a byte says so.
        repeated = len(answer) == 1 or answer[1] == 1
        for _ in range(answer[0] if repeated else 0):
            self._packet()
        if self._marks_end:
            self._packet()

    def _rows(self, kinds: list[str]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        # Length and sequence number of the packet, then a zero byte and the bitmap of NULLs.
        fields = [("head", "<u4"), ("mark", "u1"), ("nulls", "u1", ((len(kinds) + 9) // 8,))]
        row = np.dtype([*fields, *((f"c{i}", kind) for i, kind in enumerate(kinds))])
        body = row.itemsize - 4
        self._fill(5)
        while self._view[self._start + 4] == _OK:
            if self._length() != body:
                raise UnsupportedResultError
            self._fill(row.itemsize)
            count = (self._end - self._start) // row.itemsize
            rows = np.frombuffer(self._buffer, row, count, self._start)
            good = (rows["head"] & 0xFFFFFF == body) & (rows["mark"] == _OK) & (rows["nulls"] == 0).all(axis=1)
            whole = count if good.all() else int(np.argmin(good))
            if not whole:
                raise UnsupportedResultError
            yield tuple(rows[f"c{i}"][:whole].copy() for i in range(len(kinds)))
            self._start += whole * row.itemsize
            self._fill(5)
        last = self._packet()
        if last[0] != _END or len(last) > 0xFFFF or self._start != self._end:
            raise UnsupportedResultError

    def _length(self) -> int:
        """The length of the next packet, whose header has arrived."""
        return int.from_bytes(self._view[self._start : self._start + 3], "little")

    def _packet(self) -> bytes:
        self._fill(4)
        length = self._length()
        self._fill(4 + length)
        start = self._start + 4
        self._start = start + length
        if not length:
            raise UnsupportedResultError
        return bytes(self._view[start : self._start])

    def _fill(self, wanted: int) -> None:
        """Wait until the buffer has at least this number of bytes."""
        if wanted > len(self._buffer):
            raise UnsupportedResultError
        if self._start + wanted > len(self._buffer) or self._start == self._end:
            left = bytes(self._view[self._start : self._end])
            self._view[: len(left)] = left
            self._start, self._end = 0, len(left)
        while self._end - self._start < wanted:
            try:
                # The client library decides whether the socket blocks, and for how long.
                got = self._socket.recv_into(self._view[self._end :], 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._poll.poll(self._timeout):
                    raise TimeoutError("the server answers no more") from None
                continue
            if not got:
                raise ConnectionResetError("the server closed the connection")
            self._end += got

    def _send(self, command: int, body: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        self._socket.sendall(unsent + _command(command, body))

    def _ask_for_marks(self) -> bool:
        """Whether the server marks the end of the columns; depends on what the client library negotiated with it."""
        self._send(_QUERY, b"SELECT 1")
        if self._packet()[0] != 1:
            # The answer is not one column: the server did not understand the statement.
            raise UnsupportedResultError
        self._packet()
        # An end marker is five bytes long; without it the row follows at once: the length of its text, and the text.
        marked = self._packet()[0] == _END
        if marked:
            self._packet()
        self._packet()
        return marked


def _command(command: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body) + 1) + bytes([command]) + body


def _kind(definition: bytes) -> str:
    """The numpy type of a column, from the fixed part at the end of its definition."""
    kind, flags = struct.unpack_from("<BH", definition, len(definition) - 6)
    size = _SIZES.get(kind)
    if size is None:
        raise UnsupportedResultError
    return f"<{'u' if flags & FLAG.UNSIGNED else 'i'}{size}"
