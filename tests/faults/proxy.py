"""A TCP proxy in front of a sandbox server, whose network fails as told and becomes well again."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

from sandbox.servers.servers import HOST, free_port

#: Little at a time, so that what breaks breaks in the midst of a packet.
_PIECE_BYTES = 4_096
#: A close with this option sends a reset instead of an end.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """
    Forwards connections to a server on this machine; a context manager.

    :param target: the server's port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._fault, self._left, self._answers_only, self._rate = "", 0, False, 0
        self._listener: socket.socket | None = None
        #: Where to connect to: below the ports of outgoing connections, one of which could take it while it is closed.
        self.port = free_port()
        #: Connections that were made so far.
        self.connections = 0
        self._listen()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()

    def refuse(self) -> None:
        """Nobody listens any more, and open connections are reset."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            # A thread that waits in accept would keep the port open.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._cut()

    def reset(self, after: int = 0) -> None:
        """Reset each connection, new ones too, once so many bytes have passed in all."""
        self._begin("reset", after)

    def freeze(self, after: int = 0, *, answers_only: bool = False) -> None:
        """
        Forward nothing any more, once so many bytes have passed, and tell nobody: new connections are accepted.

        :param after: bytes, of all connections.
        :param answers_only: the server still gets what it is sent, and only its answers are lost.
        """
        self._begin("freeze", after, answers_only)

    def slow(self, rate: int) -> None:
        """Let so many bytes a second pass, on each connection and in each direction."""
        self._rate = rate

    def heal(self) -> None:
        """Be well again. Connections that were frozen are reset: each side learns that the other one is gone."""
        self._begin("", 0)
        self._rate = 0
        self._cut()
        if self._listener is None:
            self._listen()

    def _begin(self, fault: str, after: int, answers_only: bool = False) -> None:
        with self._lock:
            self._fault, self._left, self._answers_only = fault, after, answers_only
        if fault == "reset" and not after:
            self._cut()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection((HOST, self._target), timeout=60)
            except OSError:
                _hang_up(client)
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
                gone = self._listener is not listener
            if gone:
                self._end(pair)
                continue
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket) -> None:
        is_answer = source is pair[1]
        try:
            while True:
                piece = source.recv(_PIECE_BYTES)
                if self._rate:
                    time.sleep(len(piece) / self._rate)
                forward, fault = self._struck(len(piece), is_answer)
                if fault == "freeze" and not piece:
                    # Nor is an end told.
                    return
                if forward:
                    sink.sendall(piece[:forward])
                if fault == "reset" or not piece:
                    break
        except OSError:
            if self._fault == "freeze":
                return
        self._end(pair)

    def _struck(self, size: int, is_answer: bool) -> tuple[int, str]:
        """How many of some bytes pass, and what happens then."""
        with self._lock:
            if not self._fault or (self._answers_only and not is_answer):
                return size, ""
            forward = min(size, self._left)
            self._left -= forward
            return forward, "" if self._left else self._fault

    def _cut(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        for side in pair:
            _hang_up(side)


def _hang_up(side: socket.socket) -> None:
    """Reset a connection, also while another thread waits for its bytes."""
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    # Wakes that thread; as long as it waits, a close would do nothing.
    with suppress(OSError):
        side.shutdown(socket.SHUT_RD)
    side.close()
