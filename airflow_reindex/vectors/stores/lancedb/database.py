"""The connection to LanceDB: table names, conditions, and the classification of its errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.table import Table

from airflow_reindex.core.failures import Code, DataError, ReindexError, RequestError, TransientError

#: File systems allow 255 bytes, of which LanceDB and the prefix of marks need some.
_MAX_NAME = 200
#: Keys per condition.
_KEYS = 1000

_CONFLICT = re.compile(
    r"commit conflict|concurrent (writer|transaction)|preempted|conflicting (conditional )?operation|"
    r"ConditionalRequestConflict",
    re.IGNORECASE,
)
_FULL = re.compile(r"no space left|os error 28\b", re.IGNORECASE)
_REFUSED = re.compile(
    r"was not found|Not found: \S+/_versions|status: 40[0134]\b|permission ?denied|NoSuchBucket|credential|"
    r"No object store provider",
    re.IGNORECASE,
)
_AWAY = re.compile(r"failed to connect|RetryError|timed? ?out|HttpError", re.IGNORECASE)


def table_name(collection_id: str) -> str:
    """
    Return the name of a collection's table: readable, and different for different ids.

    :raises RequestError: the id is empty or too long.
    """
    name = re.sub(
        r"\A_(?=reindex_)|[^A-Za-z0-9_.-]|\.(?=-)|\A\.{1,2}\Z",
        lambda found: "".join(f".-{byte:02x}" for byte in found[0].encode("utf-8", "surrogatepass")),
        collection_id,
    )
    if not 0 < len(name) <= _MAX_NAME:
        raise RequestError(f"'{collection_id}' is no id of a LanceDB collection: it is empty or too long.")
    return name


def within(after: str | None, until: str | None) -> str:
    """Return a condition for a key range; keys are ordered by the code points of their characters."""
    bounds = ((">", after), ("<=", until))
    return " AND ".join(["true", *(f"object_id {sign} {literal(key)}" for sign, key in bounds if key is not None)])


def one_of(column: str, keys: Sequence[str]) -> str:
    """Return a condition for at least one value."""
    return f"{column} IN ({', '.join(map(literal, keys))})"


def literal(text: str) -> str:
    """Quote a text for a condition."""
    return "'" + text.replace("'", "''") + "'"


def read(table: Table, columns: Sequence[str], condition: str, keys: Sequence[str] | None = None) -> pa.Table:
    """
    Read columns of the rows that meet a condition.

    :param keys: restricts them to these objects.
    """

    def query(*conditions: str) -> pa.Table:
        return table.search().where(" AND ".join(conditions)).select(list(columns)).limit(None).to_arrow()

    if keys is None:
        return query(condition)
    blocks = [keys[start : start + _KEYS] for start in range(0, len(keys), _KEYS)]
    empty = pa.schema([table.schema.field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *(query(condition, one_of("object_id", block)) for block in blocks)])


class Database:
    """
    A connection that is opened on first use.

    :param storage_options: for the object store.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None) -> None:
        self.uri = uri
        self._options = dict(storage_options or {})

    @property
    def folder(self) -> Path | None:
        """The local folder; ``None`` for a URL."""
        return None if "://" in self.uri else Path(self.uri)

    @cached_property
    def connection(self) -> lancedb.DBConnection:
        """The connection; it sees other clients' writes at once."""
        if self.folder is not None and not self.folder.is_dir():
            # LanceDB would create it.
            raise RequestError(f"{self.uri}: there is no such folder.")
        return lancedb.connect(self.uri, storage_options=self._options or None, read_consistency_interval=timedelta(0))

    def table(self, name: str) -> Table | None:
        """Open a table; ``None`` when it does not exist."""
        with self.translated():
            try:
                return self.connection.open_table(name)
            except ValueError as error:
                if f"Table '{name}' was not found" in str(error):
                    return None
                raise

    def create(self, name: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Create a table with its first rows, unless it exists."""
        if self.table(name) is not None:
            return
        try:
            with self.translated():
                data = pa.Table.from_pylist(list(rows), schema=schema)
                self.connection.create_table(name, data=data, schema=schema, exist_ok=True)
        except TransientError:
            # Another process may have created it at the same time.
            if self.table(name) is None:
                raise

    def drop(self, name: str) -> None:
        """Remove a table, if it exists."""
        if self.table(name) is not None:
            with self.translated():
                self.connection.drop_table(name)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate LanceDB's errors, which differ by their texts only, into ``ReindexError`` classes."""
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> ReindexError:
        text = f"{self.uri}: {error}"
        if _CONFLICT.search(text):
            return TransientError(text, code=Code.BUSY)
        if isinstance(error, PermissionError | FileNotFoundError | FileExistsError) or _REFUSED.search(text):
            return RequestError(text)
        if isinstance(error, ValueError) and not _AWAY.search(text):
            return DataError(text)
        return TransientError(text, code=Code.DISK_FULL if _FULL.search(text) else Code.CONNECTION)
