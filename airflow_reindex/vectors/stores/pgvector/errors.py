"""Classification of PostgreSQL's errors: by SQLSTATE, by text only where the server sends none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from airflow_reindex.core.failures import Code, DataError, ReindexError, RequestError, TransientError

#: SQLSTATE classes that may pass by themselves: connection, resources, roll-backs, operator, system.
_TRANSIENT_CLASSES = ("08", "25", "40", "53", "55", "57", "58")
#: Classes of refused content: data, constraints, limits; and internal errors, which are permanent.
_DATA_CLASSES = ("21", "22", "23", "54", "XX")
#: What SQLSTATEs and their classes are about, where the error's class does not say it.
_CODES = {
    "08": Code.CONNECTION,
    "57": Code.CONNECTION,
    "28": Code.ACCESS,
    "23505": Code.DUPLICATE_KEYS,
    "3D000": Code.MISSING_TABLE,
    "42501": Code.ACCESS,
    "42P01": Code.MISSING_TABLE,
    "53100": Code.DISK_FULL,
    "53300": Code.CONNECTION,
    "57014": Code.BUSY,
}
#: While connecting, libpq hands on the server's text only.
_REFUSALS = {
    "authentication failed": "check login and password of the connection",
    "no password supplied": "the connection has no password",
    "no pg_hba.conf entry": "let the server's pg_hba.conf accept this host, user and database",
    "pg_hba.conf rejects": "let the server's pg_hba.conf accept this host, user and database",
    "permission denied for database": "GRANT CONNECT on the database to the connection's user",
    "is not permitted to log in": "ALTER ROLE ... LOGIN",
    '" does not exist': "check database and login of the connection",
}
_ADVICE = {
    "42501": "grant the connection's user what the store's documentation lists; where tables have row-level security, "
    "BYPASSRLS, too: a part of the rows is no collection",
    "42P01": "a table is gone: was the collection dropped or renamed meanwhile?",
    "42704": "is the extension there? A superuser can run: CREATE EXTENSION vector",
    "3D000": "check the database of the connection",
}


@contextmanager
def translated(label: str) -> Iterator[None]:
    """
    Translate the driver's errors into ``ReindexError`` classes.

    :param label: name of the server in messages.
    """
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, label) from error
    except UnicodeEncodeError as error:
        # Half a surrogate pair, which JSON allows and PostgreSQL's UTF-8 does not.
        raise DataError(f"{label}: a text is no valid Unicode: {error}") from error


def translate(error: psycopg.Error, label: str) -> ReindexError:
    """Classify a driver's error as TransientError, RequestError or DataError, with the server's own message."""
    state = error.sqlstate or ""
    code = _CODES.get(state) or _CODES.get(state[:2])
    text = f"{label}: {str(error).strip() or type(error).__name__}"
    if state.startswith(_TRANSIENT_CLASSES):
        return TransientError(text, code=code)
    if state.startswith(_DATA_CLASSES):
        return DataError(text, code=code)
    if state:
        advice = _ADVICE.get(state)
        return RequestError(f"{text} ({advice})" if advice else text, code=code)
    for words, advice in _REFUSALS.items():
        if words in text:
            return RequestError(f"{text} ({advice})", code=Code.ACCESS)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return TransientError(text, code=Code.CONNECTION)
    # The driver itself cannot send it, for example text with NUL in it.
    return DataError(text) if isinstance(error, psycopg.DataError) else RequestError(text)
