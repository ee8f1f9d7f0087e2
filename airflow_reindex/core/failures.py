"""Why work fails, and what that means for a retry: the classes decide, not the text of a message."""

from __future__ import annotations

#: The longest detail that a report carries (``handle_reindex_error`` keeps the last 1500 characters).
DETAIL_LIMIT = 1500


class ReindexError(Exception):
    """Base of all errors that this package raises on purpose."""


class RequestError(ReindexError):
    """The request or the deployment's configuration is wrong; nothing was touched, a retry cannot help."""


class ConflictError(RequestError):
    """The request is sound, but the target's state forbids it: the index exists, or another run builds it."""


class TransientError(ReindexError):
    """The work may succeed when it is tried again: a server was away, busy, or restarted."""


class DataError(ReindexError):
    """The data or its schema is wrong: trying again gives the same answer until somebody mends it."""


class SpaceError(ReindexError):
    """A disk is about to be full: somebody has to make room first."""


class ClaimLostError(ReindexError):
    """The claim on the target is no longer this run's: another run took over, so this one changes nothing."""


def detail(error: BaseException | str) -> str:
    """
    Shorten an error to what a report may carry.

    :param error: an exception or a text.
    :returns: the text, at most :data:`DETAIL_LIMIT` characters; of a longer one its end, where a traceback says what
        happened.
    """
    text = error if isinstance(error, str) else (str(error) or type(error).__name__)
    text = text.strip()
    return text if len(text) <= DETAIL_LIMIT else "…" + text[-(DETAIL_LIMIT - 1) :]
