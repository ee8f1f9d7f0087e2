"""A proxy in front of a MariaDB server that cuts results to some rows, as one with a limit of rows does."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from sandbox.servers.servers import HOST

_COLUMN, _END, _ERROR = b"\x03def", b"\xfe", b"\xff"


class CuttingProxy:
    """
    Forwards connections, and drops the rows of each result after the first ones; a context manager.

    :param target: the server's port.
    :param rows: how many rows of a result come through.
    """

    def __init__(self, target: int, rows: int) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                asked = threading.Event()
                with socket.create_connection((HOST, target)) as server:
                    answers = threading.Thread(target=_cut, args=(server, self.request, rows, asked), daemon=True)
                    answers.start()
                    _forward(self.request, server, asked)
                    answers.join()

        self._server = socketserver.ThreadingTCPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _forward(client: socket.socket, server: socket.socket, asked: threading.Event) -> None:
    with suppress(OSError):
        while data := client.recv(65_536):
            asked.set()
            server.sendall(data)
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _cut(server: socket.socket, client: socket.socket, most: int, asked: threading.Event) -> None:
    """Pass packets on, without the rows after the first ones, numbered anew."""
    stream = server.makefile("rb")
    rows = dropped = 0
    with suppress(OSError):
        while head := stream.read(4):
            size, number = int.from_bytes(head[:3], "little"), head[3]
            body = stream.read(size)
            if asked.is_set():
                # The head of an answer: an OK, an error, or the number of columns.
                asked.clear()
                rows = dropped = 0
            elif not body.startswith((_COLUMN, _END, _ERROR)):
                rows += 1
            if rows > most and not body.startswith((_END, _ERROR)):
                dropped += 1
                continue
            client.sendall(struct.pack("<I", size | ((number - dropped) & 0xFF) << 24) + body)
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
