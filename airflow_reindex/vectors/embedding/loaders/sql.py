"""Contents from any database with a DB-API driver."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from airflow_reindex.core.failures import Code, DataError, RequestError, TransientError
from airflow_reindex.vectors.embedding.loaders.payload import lookup
from airflow_reindex.vectors.embedding.loaders.settings import SqlSettings, config_text
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.loader import Content

#: Runs a statement with bound values on its own connection, and returns all rows.
Run = Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]
Row = Sequence[Any]

#: Ids per statement; Oracle allows a thousand in a list, and old SQLite as many parameters in all.
BATCH = 500
_ATTEMPTS = 3
#: What MySQL's driver reports as operational errors. Wrong names: unknown database, unknown column.
_MYSQL_REQUEST = frozenset({1049, 1054})
#: Access denied to a database, for a user, to a table, to a column; missing privilege; a user of another plugin.
_MYSQL_ACCESS = frozenset({1044, 1045, 1142, 1143, 1227, 1698})
#: Errors of the client library: the server cannot be reached, or is lost.
_MYSQL_CONNECTION = range(2000, 2100)
#: The SQLSTATE class of an unknown database, which is reported as an operational error.
_STATE_REQUEST = "3D"
#: Texts that the column's character set cannot hold.
_MYSQL_DATA = frozenset({1267, 1270, 1271, 1366, 3988})
#: Drivers raise the last four when they cannot interpolate values, for example after a stray percent sign.
_REQUEST = {"ProgrammingError", "NotSupportedError", "ValueError", "TypeError", "IndexError", "KeyError"}


class _RefusedError(Exception):
    """The database refuses a statement's values: one of the ids or rows is the cause."""


class SqlLoader:
    """
    Selects texts by id.

    :param run: called from several threads.
    :param placeholder: the driver's sign for a bound value.
    :param pause: upper limit in seconds of the wait before the second attempt; it grows with each attempt.
    :raises RequestError: a query does not have exactly one ``{ids}``.
    """

    outside = True

    def __init__(self, settings: SqlSettings, run: Run, placeholder: str = "%s", pause: float = 0.5) -> None:
        for name, query in (("query", settings.query), ("version_query", settings.version_query)):
            if query and query.count("{ids}") != 1:
                raise RequestError(f"'{name}' must have '{{ids}}' once, where the list of ids belongs: {query}")
        self._settings = settings
        self._run = run
        self._placeholder = placeholder
        self._pause = pause
        self.config = config_text("sql", settings, without=("version_query",))

    def load(self, items: Sequence[Item]) -> list[Content | DataError]:
        """
        Select each item's text.

        :raises RequestError: the query or the login is wrong.
        :raises TransientError: the database is away or busy.
        """
        widths = (3,) if self._settings.version_query else (2, 3)
        return self._each(items, self._settings.query, widths, _content)

    def versions(self, items: Sequence[Item]) -> list[str | DataError]:
        """Select versions by ``version_query``, or from the texts without it; raises like :meth:`load`."""
        if self._settings.version_query:
            return self._each(items, self._settings.version_query, (2,), lambda row, key: _version(row[1], key))
        contents = self.load(items)
        return [content if isinstance(content, DataError) else content.version for content in contents]

    def _each(
        self, items: Sequence[Item], query: str, widths: Sequence[int], make: Callable[[Row, str], Any]
    ) -> list[Any]:
        keys = [self._key(item) for item in items]
        wanted = list(dict.fromkeys(key for key in keys if not isinstance(key, DataError)))
        found: dict[str, list[Row] | DataError] = {}
        for start in range(0, len(wanted), BATCH):
            answers = self._fetch(query, widths, wanted[start : start + BATCH])
            refused = [answer for answer in answers.values() if isinstance(answer, DataError)]
            if len(refused) > 1 and len(refused) == len(answers):
                raise RequestError(f"all {len(refused)} ids of a batch were refused, the first: {refused[0]}")
            found |= answers
        return [key if isinstance(key, DataError) else _one(str(key), found[str(key)], make) for key in keys]

    def _key(self, item: Item) -> str | int | DataError:
        key: Any = item.object_id
        if field := self._settings.id_field:
            key = lookup(item.storage_meta, field)
            key = lookup(item.payload, field) if key is None else key
            if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
                return DataError(f"neither the storage metadata nor the payload has an id in '{field}'.")
        if "\0" in str(key):
            return DataError("the id has a NUL character.")
        if self._settings.id_type == "text":
            return str(key)
        if not re.fullmatch(r"-?[0-9]+", str(key)):
            return DataError(f"the id '{key}' is no whole number.")
        return int(key)

    def _fetch(self, query: str, widths: Sequence[int], keys: Sequence[str | int]) -> dict[str, list[Row] | DataError]:
        """Return rows by id; a statement whose values are refused is halved until only the bad ones are left."""
        statement = query.replace("{ids}", ", ".join([self._placeholder] * len(keys)))
        try:
            rows = self._patiently(statement, keys)
        except _RefusedError as error:
            if len(keys) == 1:
                return {str(keys[0]): DataError(f"the database refuses the id '{keys[0]}': {error}")}
            half = len(keys) // 2
            return self._fetch(query, widths, keys[:half]) | self._fetch(query, widths, keys[half:])
        found: dict[str, list[Row]] = {str(key): [] for key in keys}
        for row in rows:
            if len(row) not in widths:
                raise RequestError(
                    f"the query must give {' or '.join(map(str, widths))} columns, not {len(row)}: {query}"
                )
            # Ids come back in their column's type, so they are compared as texts. Rows that were not asked for are
            # dropped: MySQL's comparison ignores case, and takes every word for the number 0.
            if (name := str(row[0])) in found:
                found[name].append(row)
        return {**found}

    def _patiently(self, statement: str, values: Sequence[Any]) -> Sequence[Row]:
        tries = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=self._pause, max=10),
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        )
        return tries(self._once, statement, values)

    def _once(self, statement: str, values: Sequence[Any]) -> Sequence[Row]:
        try:
            return self._run(statement, values)
        except (RequestError, TransientError):
            raise
        except Exception as error:
            raise _judged(error, f"the database of '{self._settings.conn_id}'") from error


def _judged(error: Exception, where: str) -> Exception:
    """Classify an error by the class names of DB-API 2, which each driver defines for itself."""
    names = {kind.__name__ for kind in type(error).__mro__}
    state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
    said = f"{where}: {str(error).strip() or type(error).__name__}"
    code = error.args[0] if error.args else None
    # Drivers refuse some values before sending: half a surrogate pair, an integer that is too big.
    if names & {"DataError", "OverflowError", "UnicodeError"} or code in _MYSQL_DATA:
        return _RefusedError(str(error).strip())
    if state.startswith("28") or code in _MYSQL_ACCESS:
        return RequestError(said, code=Code.ACCESS)
    if state.startswith(_STATE_REQUEST) or code in _MYSQL_REQUEST or names & _REQUEST:
        return RequestError(said)
    if getattr(error, "sqlite_errorname", "") == "SQLITE_ERROR":
        return RequestError(said)
    if names & {"ConnectionError", "TimeoutError"} or state.startswith("08") or code in _MYSQL_CONNECTION:
        return TransientError(said, code=Code.CONNECTION)
    return TransientError(said) if "Error" in names else error


def _one(key: str, rows: list[Row] | DataError, make: Callable[[Row, str], Any]) -> Any:
    if isinstance(rows, DataError):
        return rows
    if len(rows) != 1:
        return DataError(f"the query gives {len(rows) or 'no'} row{'s' if rows else ''} for the id '{key}'.")
    try:
        return make(rows[0], key)
    except DataError as error:
        return error


def _content(row: Row, key: str) -> Content:
    text = bytes(row[1]) if isinstance(row[1], bytearray | memoryview) else row[1]
    if text is None:
        raise DataError(f"the text of the id '{key}' is NULL.")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"the text of the id '{key}' is not UTF-8: {error}.") from error
    if not isinstance(text, str):
        raise DataError(f"the text of the id '{key}' is no text, but {type(text).__name__}.")
    if len(row) > 2:
        return Content(text, _version(row[2], key))
    return Content(text, hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16])


def _version(value: Any, key: str) -> str:
    if value is None:
        raise DataError(f"the version of the id '{key}' is NULL.")
    return bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)
