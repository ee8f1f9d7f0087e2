"""Limits of requests to the plugin (body size, number of requests), and headers for its pages."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: No content from elsewhere, no script but the package's own; Airflow's UI shows the pages in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _TooLargeError(Exception):
    """A body is larger than allowed."""


class Limits:
    """
    ASGI middleware that refuses excessive requests, and adds headers to every answer.

    :param requests_a_minute: per client address; counted in each process.
    :param body_bytes: maximum size of a body.
    """

    def __init__(self, app: ASGIApp, *, requests_a_minute: int, body_bytes: int) -> None:
        self._app, self._body_bytes = app, body_bytes
        self._rate = RateLimitItemPerMinute(requests_a_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = (scope.get("client") or ("",))[0]
        if not self._limiter.hit(self._rate, host):
            await _refuse(send, 429, "too many requests: wait a minute ([reindex] api_requests_per_minute)")
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        left = self._body_bytes if declared.isdigit() and int(declared) <= self._body_bytes else -1
        refused = False

        async def counted() -> Message:
            nonlocal left, refused
            # Raised only when the application reads the body: a client without permission is told that instead.
            message = await receive() if left >= 0 else {}
            left -= len(message.get("body", b""))
            if left < 0:
                refused = True
                raise _TooLargeError
            return message

        async def guarded(message: Message) -> None:
            # The application treats a body that it cannot read as malformed.
            if refused:
                return
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        with suppress(_TooLargeError):
            await self._app(scope, counted, guarded)
        if refused:
            await _refuse(send, 413, f"the body is larger than {self._body_bytes} bytes ([reindex] api_body_bytes)")


def _add_headers(message: Message) -> None:
    there = {name.lower() for name, _ in message["headers"]}
    message["headers"] = [
        *message["headers"],
        *((n.lower().encode(), v.encode()) for n, v in HEADERS.items() if n.lower().encode() not in there),
    ]


async def _refuse(send: Send, code: int, why: str) -> None:
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": code,
        "headers": [(b"content-type", b"application/json")],
    }
    _add_headers(start)
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})
