"""What the HTTP backends share: connection pool, retries, and the classification of answers."""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import random
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, ClassVar, NoReturn, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
import numpy as np
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from airflow_reindex.core.failures import Code, DataError, RequestError, TransientError
from airflow_reindex.vectors.model.collection import Vectors
from airflow_reindex.vectors.model.embedding_model import ModelSpec, SuspectError

CONNECT_TIMEOUT = 10.0
#: Most attempts per request: for a server that is away or busy, and for one that fails on this request.
TRIES, SUSPECT_TRIES = 5, 3
#: No attempt is begun after this number of seconds.
MOST_SECONDS = 300.0
#: The longest ``Retry-After`` to wait for; longer ones are better served by a retry of the task.
MOST_WAIT = 60.0
#: Upper limit of the wait before the second attempt; it doubles with each attempt.
FIRST_WAIT = 0.5
#: Characters of a server's answer that a message quotes.
QUOTED = 300

_BUSY = {408, 425, 429, 502, 503, 504}
_REFUSED = {400, 413, 422}
_HINTS = {
    401: "the key (the connection's password) is missing or wrong",
    402: "the account cannot pay for it",
    403: "the key (the connection's password) may not use this model",
    404: "look at the URL (is a path such as /v1 missing?) and the model's name",
    405: "look at the URL: this address is not for embeddings",
    415: "look at the URL: this server does not speak the backend's protocol",
    429: "lower 'in_flight' or 'batch_size' of the connection if this persists",
}

T = TypeVar("T")


class _AgainError(Exception):
    """An attempt failed, and another may succeed."""

    def __init__(self, error: TransientError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class HttpModel:
    """
    A model behind an HTTP server.

    :param spec: ``options`` may hold ``verify``: the path of a file with CA certificates, or ``false``, which is
        allowed for a server on this machine only.
    :raises RequestError: the description lacks something.
    """

    #: Options besides ``verify``; an unknown one is refused, as a misspelt option would change vectors unnoticed.
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        unknown = spec.options.keys() - self.options - {"verify"}
        if unknown:
            raise RequestError(
                f"{self._label}: the backend '{spec.backend}' knows no option '{min(unknown)}', only "
                f"{', '.join(sorted(self.options | {'verify'}))}."
            )
        try:
            parts = httpx.URL(spec.url)
        except httpx.InvalidURL as error:
            raise RequestError(f"{self._label}: its URL is malformed: {error}.") from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise RequestError(f"{self._label}: the backend '{spec.backend}' needs the URL of a server ('host').")
        self._url = spec.url.rstrip("/")
        headers = {"Authorization": f"Bearer {spec.secret}"} if spec.secret else {}
        if not (spec.secret.isascii() and spec.secret.isprintable()) or " " in spec.secret:
            # The HTTP library would refuse it with a message that quotes the key.
            raise RequestError(f"{self._label}: the key has blanks, line breaks or signs that no key has.")
        # One line per request at level INFO would fill the task's log.
        log = logging.getLogger("httpx")
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)
        local = _is_loopback(parts.host)
        self._client = httpx.Client(
            headers=headers,
            verify=self._verify(local),
            # No proxy for a server on this machine.
            trust_env=not local,
            # A redirect would send texts and key to a server that nobody configured.
            follow_redirects=False,
            timeout=httpx.Timeout(spec.timeout, connect=min(CONNECT_TIMEOUT, spec.timeout), pool=None),
            limits=httpx.Limits(max_connections=spec.in_flight, max_keepalive_connections=spec.in_flight),
        )

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def close(self) -> None:
        self._client.close()

    @property
    def _label(self) -> str:
        return f"embedding model '{self._spec.model_id}'"

    def _verify(self, local: bool) -> ssl.SSLContext | bool:
        verify = self._spec.options.get("verify", True)
        if verify is True:
            return _trusted()
        if verify is False:
            if not local:
                raise RequestError(
                    f"{self._label}: option 'verify' may be false for a server on this machine only: name a file with "
                    "the CA's certificate instead."
                )
            return False
        try:
            return ssl.create_default_context(cafile=str(verify))
        except OSError as error:
            raise RequestError(f"{self._label}: option 'verify': cannot read '{verify}': {error}.") from error

    def _call(self, method: str, path: str, body: Any, parse: Callable[[Any], T]) -> T:
        """
        Send a request with retries, and parse the answer.

        :param path: appended to the model's URL.
        :param body: sent as JSON; ``None`` for none.
        :param parse: makes the result; its ValueError means that the answer violates the protocol.
        """
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        url = self._url + path
        tries = Retrying(retry=retry_if_exception_type(_AgainError), wait=_wait, stop=_stop, reraise=True)
        try:
            found: T = tries(self._try, method, url, content, parse)
        except _AgainError as again:
            # The attempts' own tracebacks add nothing.
            raise again.error from None
        return found

    def _try(self, method: str, url: str, content: bytes | None, parse: Callable[[Any], T]) -> T:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            response = self._client.request(method, url, content=content, headers=headers)
        except httpx.RequestError as error:
            self._unreached(url, error)
        if response.status_code != 200:
            self._refused(url, response)
        try:
            return parse(json.loads(response.content))
        except DataError as error:
            raise DataError(f"{self._where(url)}: {error}") from None
        except ValueError as error:
            message = f"{self._where(url)} gave an answer that cannot be used ({error}): {self._quote(response)}"
            if response.content.lstrip()[:1] == b"<":
                raise RequestError(f"{message}. This is a web page: look at the URL.") from None
            raise _AgainError(SuspectError(message)) from None

    def _unreached(self, url: str, error: httpx.RequestError) -> NoReturn:
        reason = f"{type(error).__name__}: {self._hide(str(error))}".rstrip(": ")
        for cause in _causes(error):
            if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
                raise RequestError(f"{self._where(url)}: its host is unknown ({cause}). Look at the URL.") from None
            # After the handshake, or when the peer hangs up, a TLS error is a lost connection like any other.
            hung_up = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if isinstance(cause, ssl.SSLError) and isinstance(error, httpx.ConnectError) and not hung_up:
                raise RequestError(
                    f"{self._where(url)}: TLS failed ({cause}). Look at the URL; a CA of your own is named by the "
                    "option 'verify'."
                ) from None
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            raise RequestError(f"{self._where(url)} cannot be asked: {reason}.") from None
        if isinstance(error, httpx.ReadTimeout):
            raise _AgainError(
                SuspectError(
                    f"{self._where(url)} did not answer within {self._spec.timeout:g} s: it is overloaded, or hangs on "
                    "a text. Lower 'batch_size' or raise 'timeout' of the connection if this persists."
                )
            ) from None
        if isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
            raise _AgainError(
                SuspectError(f"{self._where(url)} dropped the connection: {reason}.", code=Code.CONNECTION)
            ) from None
        raise _AgainError(
            TransientError(f"{self._where(url)} cannot be reached: {reason}.", code=Code.CONNECTION)
        ) from None

    def _refused(self, url: str, response: httpx.Response) -> NoReturn:
        status = response.status_code
        hint = f". Please check: {_HINTS[status]}" if status in _HINTS else ""
        message = f"{self._where(url)} answered {status}: {self._quote(response)}{hint}"
        if status in _REFUSED and not self._is_misconfigured(response):
            raise DataError(message)
        if status == 500:
            raise _AgainError(SuspectError(message))
        if status == 429 and b"insufficient_quota" in response.content:
            raise RequestError(message)
        if status in _BUSY or (status > 500 and status not in (501, 505)):
            after = _retry_after(response.headers.get("Retry-After"))
            if after is not None and after > MOST_WAIT:
                raise TransientError(f"{message}. It asks to wait {after:.0f} s.")
            raise _AgainError(TransientError(message), after)
        if 300 <= status < 400:
            target = self._hide(_public(response.headers.get("Location", "nowhere")))
            message = f"{self._where(url)} redirects to {target}, which is not followed: set the final URL."
        raise RequestError(message, code=Code.ACCESS if status in (401, 403) else None)

    def _is_misconfigured(self, response: httpx.Response) -> bool:
        """Whether a refusal is about the model rather than about texts."""
        return response.status_code == 400 and not response.request.content

    def _where(self, url: str) -> str:
        return f"{self._label} at {_public(url)}"

    def _quote(self, response: httpx.Response) -> str:
        text = " ".join(self._hide(response.text).split())
        return (text[:QUOTED] + "…" if len(text) > QUOTED else text) or "(nothing)"

    def _hide(self, text: str) -> str:
        return text.replace(self._spec.secret, "***") if self._spec.secret else text


@cache
def _trusted() -> ssl.SSLContext:
    """The system's CAs; cached, as reading them for each model takes too long."""
    return httpx.create_ssl_context()


def to_vectors(rows: Sequence[Any]) -> Vectors:
    """
    Make an array of a server's rows; whatever is not a number becomes NaN.

    :param rows: lists of numbers or ``None``.
    :returns: shape ``(len(rows), n)``.
    :raises DataError: the rows differ in length.
    :raises ValueError: they are not rows of numbers.
    """
    width = next((len(row) for row in rows if isinstance(row, list)), 1)
    filled = [[None] * width if row is None else row for row in rows]
    if not all(isinstance(row, list) for row in filled):
        raise ValueError("an embedding is no list")
    lengths = sorted({len(row) for row in filled})
    if len(lengths) > 1:
        raise DataError(f"the vectors have different lengths ({', '.join(map(str, lengths))}).")
    try:
        with np.errstate(over="ignore"):
            vectors = np.array(filled, dtype=np.float32)
    except TypeError as error:
        raise ValueError(f"an embedding is no list of numbers: {error}") from error
    if vectors.ndim != 2:
        raise ValueError("an embedding is no list of numbers")
    return vectors


def _wait(state: RetryCallState) -> float:
    error = _failure(state)
    if error.after is not None:
        # A little later than the server asked for, so that clients do not return at the same moment.
        return error.after + random.uniform(0, FIRST_WAIT)  # noqa: S311 - spreads retries, no secret
    return random.uniform(0, FIRST_WAIT * 2 ** (state.attempt_number - 1))  # noqa: S311 - spreads retries, no secret


def _stop(state: RetryCallState) -> bool:
    most = SUSPECT_TRIES if isinstance(_failure(state).error, SuspectError) else TRIES
    return state.attempt_number >= most or (state.seconds_since_start or 0.0) + state.upcoming_sleep > MOST_SECONDS


def _failure(state: RetryCallState) -> _AgainError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, _AgainError)  # noqa: S101 - for the type checker
    return error


def _retry_after(value: str | None) -> float | None:
    """Return seconds from a number or an HTTP date; ``None`` when the server does not say."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _public(url: str) -> str:
    """Return a URL without credentials, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
