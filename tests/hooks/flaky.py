"""An S3 server that cannot answer now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Self

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from sandbox.servers.objects import ObjectStore

#: Answers as S3 gives them when it is overloaded or broken.
ANSWERS = {
    500: ("500 Internal Server Error", "InternalError"),
    503: ("503 Slow Down", "SlowDown"),
}


class FlakyStore(ObjectStore):
    """
    moto's S3, some of whose answers are errors.

    `fails` says for each request, by method and path, which status to answer; 0 for the true answer.
    """

    def __init__(self) -> None:
        self.fails: Callable[[str, str], int] = lambda *_: 0
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        dispatch = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.requests.append(f"{method} {path}")
            status = self.fails(method, path)
            if not status:
                found: Iterable[bytes] = dispatch(environ, start)
                return found
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            line, code = ANSWERS[status]
            start(line, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode()]

        self._http = make_server("127.0.0.1", 0, answer, threaded=True)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def insert(self, bucket: str, key: str, value: bytes) -> None:
        """Store an object without a request."""
        (account,) = get_backend("s3")
        get_backend("s3")[account]["aws"].put_object(bucket, key, value)
