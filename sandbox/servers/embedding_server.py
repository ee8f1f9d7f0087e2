"""
An embedding server over real HTTP for tests and benchmarks.

It speaks OpenAI's embeddings API (``/v1/embeddings``) and the Open Inference Protocol (``/v2/models/...``), makes
vectors from hashes of the texts, fails on demand, and counts.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from airflow_reindex.vectors.model.collection import Vectors
from sandbox.servers.embedding_answers import Spoil, hash_rows, hash_vectors, kserve_answer, openai_answer, write_row


@dataclass
class Fault:
    """
    What goes wrong.

    :param contains: for requests with a text that has this in it; empty for all.
    :param status: answer so.
    :param body: answer this, with ``status`` or 200.
    :param headers: of the answer.
    :param drop: close the connection instead of an answer.
    :param delay: wait so many seconds before all else.
    :param vector: spoil the vector of the text instead.
    :param times: how often; ``None`` for always.
    """

    contains: str = ""
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    delay: float = 0.0
    vector: Spoil = ""
    times: int | None = None


@dataclass
class Counts:
    """
    What the server has seen.

    :param requests: for embeddings, also those that failed.
    :param connections: opened by clients.
    :param at_once: requests for embeddings at the same time, at most.
    :param failed: requests that got no vectors.
    :param embedded: how often each text got a vector, by model.
    """

    requests: int = 0
    connections: int = 0
    at_once: int = 0
    failed: int = 0
    embedded: dict[str, Counter[str]] = field(default_factory=dict)


class EmbeddingServer:
    """
    A server on 127.0.0.1 that runs in threads of this process.

    :param models: dimensions by name.
    :param latency: seconds that each request takes, slept.
    :param latency_per_text: seconds that each text adds.
    :param key: demanded of clients; empty for none.
    :param column: whether the tensor of texts is ``[n, 1]`` rather than ``[n]``.
    :param embed: makes the vectors, from model and texts; by default hashes do.
    :param tls: serve HTTPS.
    :param port: 0 for any free one.
    """

    def __init__(
        self,
        models: Mapping[str, int],
        *,
        latency: float = 0.0,
        latency_per_text: float = 0.0,
        key: str = "",
        column: bool = True,
        embed: Callable[[str, list[str]], Vectors] | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.models = dict(models)
        self.latency = latency
        self.latency_per_text = latency_per_text
        self.key = key
        self.column = column
        self.embed = embed
        #: The type of numbers in base64; clients expect this one.
        self.base64 = "<f4"
        self.faults: list[Fault] = []
        self.counts = Counts()
        self.lock = Lock()
        self._busy = 0
        self._sockets: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", port), self)
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), name="embedding-server", daemon=True)
        self._thread.start()

    def __enter__(self) -> EmbeddingServer:
        """Nothing to do: it answers already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The base for the backend ``kserve``; the backend ``openai`` needs ``/v1`` after it."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening, and hang up on all clients."""
        self._server.shutdown()
        self._server.server_close()
        with self.lock:
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Until it is closed."""
        self._thread.join()

    @contextmanager
    def connected(self, connection: socket.socket) -> Iterator[None]:
        """Note a client's connection."""
        with self.lock:
            self.counts.connections += 1
            self._sockets.add(connection)
        try:
            yield
        finally:
            with self.lock:
                self._sockets.discard(connection)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request while it is worked on."""
        with self.lock:
            self._busy += 1
            self.counts.requests += 1
            self.counts.at_once = max(self.counts.at_once, self._busy)
        try:
            yield
        finally:
            with self.lock:
                self._busy -= 1

    def fault(self, texts: Sequence[str]) -> Fault | None:
        """The first fault that hits a request with these texts; it counts as used."""
        with self.lock:
            for fault in self.faults:
                if not fault.vector and fault.times != 0 and any(fault.contains in text for text in texts):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def rows(self, model: str, texts: list[str], in_base64: bool) -> list[bytes]:
        """The vectors of texts as JSON, spoiled where a fault says so."""
        faults = [fault for fault in self.faults if fault.vector]
        if self.embed is None and not in_base64 and not faults:
            return hash_rows(model, texts, self.models[model])
        vectors = self.embed(model, texts) if self.embed else hash_vectors(model, texts, self.models[model])
        how: list[Spoil] = [next((fault.vector for fault in faults if fault.contains in text), "") for text in texts]
        packed = self.base64 if in_base64 else ""
        return [write_row(vector, wrong, packed) for vector, wrong in zip(vectors, how, strict=True)]

    def count(self, model: str, texts: Sequence[str]) -> None:
        """Note texts that get vectors."""
        with self.lock:
            self.counts.embedded.setdefault(model, Counter()).update(texts)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: EmbeddingServer) -> None:
        super().__init__(address, _Handler)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def handle(self) -> None:
        with self.server.owner.connected(self.connection):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        owner = self.server.owner
        if self.path == "/stats":
            with owner.lock:
                counts = {**vars(owner.counts), "embedded": {m: c.total() for m, c in owner.counts.embedded.items()}}
            return self._send(200, json.dumps(counts).encode())
        return self._guarded(lambda: self._look(owner))

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with owner.working():
            self._guarded(lambda: self._embed(owner, json.loads(body)))

    def _guarded(self, answer: Callable[[], bytes | None]) -> None:
        owner = self.server.owner
        try:
            if owner.key and self.headers.get("Authorization") != f"Bearer {owner.key}":
                raise _Refusal(401, _error(f"wrong key: {self.headers.get('Authorization')}"))
            found = answer()
        except _Refusal as refusal:
            with owner.lock:
                owner.counts.failed += 1
            return self._send(refusal.status, refusal.body, refusal.headers)
        if found is None:
            self.close_connection = True
            return None
        return self._send(200, found)

    def _look(self, owner: EmbeddingServer) -> bytes:
        parts = self.path.strip("/").split("/")
        if parts == ["v2", "health", "ready"]:
            return b"{}"
        if len(parts) < 3 or parts[:2] != ["v2", "models"] or parts[2] not in owner.models:
            raise _Refusal(404, _error(f"nothing at {self.path}"))
        texts = {"name": "text", "datatype": "BYTES", "shape": [-1, 1] if owner.column else [-1]}
        vectors = {"name": "embedding", "datatype": "FP32", "shape": [-1, owner.models[parts[2]]]}
        return json.dumps({"name": parts[2], "inputs": [texts], "outputs": [vectors]}).encode()

    def _embed(self, owner: EmbeddingServer, body: dict[str, Any]) -> bytes | None:
        if self.path == "/v1/embeddings":
            model, texts, write = body["model"], body["input"], openai_answer
        elif self.path.startswith("/v2/models/") and self.path.endswith("/infer"):
            model, texts, write = self.path.split("/")[3], _texts(owner, body), kserve_answer
        else:
            raise _Refusal(404, _error(f"nothing at {self.path}"))
        if model not in owner.models:
            raise _Refusal(404, _error(f"there is no model {model}"))
        if isinstance(texts, str):
            texts = [texts]
        fault = owner.fault(texts)
        time.sleep(owner.latency + owner.latency_per_text * len(texts) + (fault.delay if fault else 0.0))
        if fault and fault.drop:
            return None
        if fault and (fault.status or fault.body is not None):
            answer = _error("scripted") if fault.body is None else fault.body.encode()
            raise _Refusal(fault.status or 200, answer, fault.headers)
        rows = owner.rows(model, texts, body.get("encoding_format") == "base64")
        owner.count(model, texts)
        return write(model, rows, body)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def _texts(owner: EmbeddingServer, body: dict[str, Any]) -> list[str]:
    (tensor,) = body["inputs"]
    if len(tensor["shape"]) != 1 + owner.column or tensor["datatype"] != "BYTES" or tensor["name"] != "text":
        raise _Refusal(400, json.dumps({"error": f"unexpected input {tensor['name']} {tensor['shape']}"}).encode())
    return [text for item in tensor["data"] for text in (item if isinstance(item, list) else [item])]


def _wordllama(models: Mapping[str, int]) -> Callable[[str, list[str]], Vectors]:
    from airflow_reindex.vectors.embedding.backends.wordllama import NAME, WordLlamaModel
    from airflow_reindex.vectors.model.embedding_model import ModelSpec

    made = {
        name: WordLlamaModel(ModelSpec(model_id=name, backend="wordllama", name=NAME, dimensions=dimensions))
        for name, dimensions in models.items()
    }
    return lambda model, texts: made[model].embed(texts)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted; the URL is printed, ``/stats`` shows the counts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", metavar="NAME=DIMENSIONS", help="may be repeated")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a request")
    parser.add_argument("--latency-per-text", type=float, default=0.0)
    parser.add_argument("--wordllama", action="store_true", help="vectors with a meaning instead of hashes")
    given = parser.parse_args(argv)
    models = {name: int(number) for name, _, number in (m.partition("=") for m in given.model or ["small=256"])}
    embed = _wordllama(models) if given.wordllama else None
    server = EmbeddingServer(
        models, latency=given.latency, latency_per_text=given.latency_per_text, embed=embed, port=given.port
    )
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    try:
        server.wait()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()
