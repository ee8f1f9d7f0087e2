"""Why work fails, and what that means: the class of an error decides on a retry, its code says what it is about."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from enum import StrEnum

#: The longest detail that a report carries (``handle_reindex_error`` keeps the last 1500 characters).
DETAIL_LIMIT = 1500
#: The longest message of an unexpected error, so that its type and its traceback's end fit into a detail as well.
_MESSAGE_LIMIT = 500


class Code(StrEnum):
    """
    What an error is about. Programs go by it; messages are for people, and may be reworded.

    Reports, tasks' records and lists of failures have these values: a code that is written stays readable, and one
    that a reader does not know is read as ``other``.
    """

    LOST_TASK = "lost_task"
    DUPLICATE_KEYS = "duplicate_keys"
    MISSING_TABLE = "missing_table"
    ACCESS = "access"
    DISK_FULL = "disk_full"
    CONNECTION = "connection"
    BAD_DATA = "bad_data"
    OTHER = "other"
    # What follows refines "other".
    REFUSED = "refused"
    UNKNOWN_DATABASE = "unknown_database"
    UNKNOWN_TABLE = "unknown_table"
    NOT_DIRECTOR_TABLE = "not_director_table"
    UNPUBLISHED_TABLE = "unpublished_table"
    NO_DIRECTOR_KEY = "no_director_key"
    NO_SCHEMA = "no_schema"
    MISSING_COLUMN = "missing_column"
    CONFLICT = "conflict"
    BUSY = "busy"
    CLAIM_LOST = "claim_lost"
    STALE_PLAN = "stale_plan"
    INCOMPLETE_READ = "incomplete_read"
    CHANGED_CHUNKS = "changed_chunks"
    SERVER_WARNING = "server_warning"
    INDEX_DIFFERS = "index_differs"
    FAILED_ITEMS = "failed_items"
    REJECTED = "rejected"
    UNEXPECTED = "unexpected"

    @classmethod
    def _missing_(cls, _value: object) -> Code:
        return cls.OTHER

    @property
    def metric(self) -> Code:
        """The value of the metrics' tag: one of eight, so that a board need not know each refinement."""
        return self if self in _METRICS else Code.OTHER


_METRICS = frozenset(
    {
        Code.LOST_TASK,
        Code.DUPLICATE_KEYS,
        Code.MISSING_TABLE,
        Code.ACCESS,
        Code.DISK_FULL,
        Code.CONNECTION,
        Code.BAD_DATA,
    }
)


class ReindexError(Exception):
    """
    Base of all errors that this package raises on purpose.

    :param message: what went wrong, and what to do.
    :param code: what it is about; the class's own code by default.
    """

    code = Code.OTHER

    def __init__(self, message: str = "", *, code: Code | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class RequestError(ReindexError):
    """The request or the deployment's configuration is wrong; nothing was changed, and a retry cannot help."""

    code = Code.REFUSED


class ConflictError(RequestError):
    """
    The request is sound, but the target's state forbids it: the index exists, or another run builds it.

    :param holder: the run that is in the way; empty when there is none.
    """

    code = Code.CONFLICT

    def __init__(self, message: str = "", *, code: Code | None = None, holder: str = "") -> None:
        super().__init__(message, code=code)
        self.holder = holder


class TransientError(ReindexError):
    """The work may succeed on a retry: a server was unreachable, busy or restarted."""

    code = Code.BUSY


class DataError(ReindexError):
    """The data or its schema is wrong: a retry fails in the same way until somebody corrects it."""

    code = Code.BAD_DATA


class SpaceError(ReindexError):
    """A disk is about to be full: somebody has to free space first."""

    code = Code.DISK_FULL


class ClaimLostError(ReindexError):
    """Another run has taken over the claim on the target, so this one must change nothing more."""

    code = Code.CLAIM_LOST


@dataclass(frozen=True)
class Reason:
    """Why something failed, as records and reports have it."""

    code: Code
    text: str


def reason_of(error: BaseException) -> Reason:
    """
    Find the reason for an error that is no driver's.

    :param error: the error; one that nobody raised on purpose is a mistake of the program, and has its traceback.
    """
    if isinstance(error, ReindexError):
        return Reason(error.code, str(error) or type(error).__name__)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Reason(Code.DISK_FULL if full else Code.UNEXPECTED, truncate_detail(error))


def truncate_detail(error: BaseException | str) -> str:
    """
    Shorten an error to :data:`DETAIL_LIMIT` characters.

    :param error: an exception or a text.
    :returns: a text, or the message of an error that was raised on purpose; of any other exception its traceback, which
        ends with type and message. At most :data:`DETAIL_LIMIT` characters; of a longer one its end.
    """
    if isinstance(error, str):
        text = error
    elif isinstance(error, ReindexError):
        text = str(error) or type(error).__name__
    else:
        text = _trace(error)
    return _end(text.strip(), DETAIL_LIMIT)


def _trace(error: BaseException) -> str:
    # Frames are source lines without values. What caused the error is left out: its message may quote anything.
    frames = traceback.format_tb(error.__traceback__)
    message = _end(str(error).strip(), _MESSAGE_LIMIT)
    return "".join(frames) + type(error).__name__ + (f": {message}" if message else "")


def _end(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[-(limit - 1) :]
