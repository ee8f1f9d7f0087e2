"""Why work fails, and whether a retry can help: the classes decide, not the text of a message."""

from __future__ import annotations

#: The longest detail that a report carries (``handle_reindex_error`` keeps the last 1500 characters).
DETAIL_LIMIT = 1500


class ReindexError(Exception):
    """Base of all errors that this package raises on purpose."""


class RequestError(ReindexError):
    """The request or the deployment's configuration is wrong; nothing was changed, and a retry cannot help."""


class ConflictError(RequestError):
    """The request is sound, but the target's state forbids it: the index exists, or another run builds it."""


class TransientError(ReindexError):
    """The work may succeed on a retry: a server was unreachable, busy or restarted."""


class DataError(ReindexError):
    """The data or its schema is wrong: a retry fails in the same way until somebody corrects it."""


class SpaceError(ReindexError):
    """A disk is about to be full: somebody has to free space first."""


class ClaimLostError(ReindexError):
    """Another run has taken over the claim on the target, so this one must change nothing more."""


def detail(error: BaseException | str) -> str:
    """
    Shorten an error to :data:`DETAIL_LIMIT` characters.

    Of a longer text the end is kept, where a traceback says what happened.
    """
    text = error if isinstance(error, str) else (str(error) or type(error).__name__)
    text = text.strip()
    return text if len(text) <= DETAIL_LIMIT else "…" + text[-(DETAIL_LIMIT - 1) :]
