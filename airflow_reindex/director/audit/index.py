"""Reads the live index as its readers do: short selects by key, no transaction, nothing that a swap would wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from airflow_reindex.core.failures import Code, DataError, RequestError
from airflow_reindex.director.audit.differences import NO_CHUNK
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import Connection, query
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.integer_reader import IntegerQuery, IntegerReader
from airflow_reindex.director.mysql.types import IntegerType, Rows

#: Keys per look-up.
LOOK_UP_KEYS = 1_000


@dataclass(frozen=True)
class IndexState:
    """Which table the index is: when it was created, as the server writes it, and about how many rows it has."""

    created: str
    rows: int


def state_of(connection: Connection, tables: IndexTables) -> IndexState:
    """
    Read which table the index is now.

    :raises RequestError: when there is no such index.
    """
    found = query(
        connection,
        "SELECT CREATE_TIME, TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
        (tables.database, tables.index),
    )
    if not found:
        raise RequestError(
            f"there is no index '{tables.index}' in '{tables.database}': build it first (build_director_index).",
            code=Code.MISSING_TABLE,
        )
    return IndexState(str(found[0][0]), int(found[0][1] or 0))


class IndexReader:
    """Reads rows of the index."""

    def __init__(self, reader: IntegerReader, plan: Plan, tables: IndexTables) -> None:
        self._reader, self._plan, self._tables = reader, plan, tables

    def window(self, low: int | None, high: int | None) -> Iterator[Rows]:
        """The rows with ``low <= key < high`` in key order, some at a time; ``None`` for no bound."""
        key = quote(self._plan.key_column)
        bounds = [(f"{key} >= {low}", low), (f"{key} < {high}", high)]
        where = " AND ".join(text for text, bound in bounds if bound is not None) or "TRUE"
        yield from self._read(f"{where} ORDER BY {key}")

    def keys(self, keys: Sequence[int]) -> Iterator[Rows]:
        """The rows with these ascending keys, some at a time, in key order."""
        key = quote(self._plan.key_column)
        for i in range(0, len(keys), LOOK_UP_KEYS):
            yield from self._read(f"{key} IN ({','.join(map(str, keys[i : i + LOOK_UP_KEYS]))}) ORDER BY {key}")

    def block(self, after: int, rows: int) -> Rows:
        """At most that many rows from a key on."""
        key = quote(self._plan.key_column)
        return Rows.joined([no_rows(self._plan), *self._read(f"{key} >= {after} ORDER BY {key} LIMIT {rows}")])

    def _read(self, where: str) -> Iterator[Rows]:
        columns = f"{quote(self._plan.key_column)}, `chunkId`, `subChunkId`"
        return self._reader.rows(
            IntegerQuery(
                # Only numbers are written into it; the names are quoted.
                f"SELECT {columns} FROM {self._tables.live} WHERE {where}",  # noqa: S608 - names are quoted
                self._tables.index,
                (self._plan.key, IntegerType.parse("INT", "chunkId"), self._plan.sub_chunk),
                Rows,
                self._as_rows,
            )
        )

    def _as_rows(self, batch: Sequence[tuple[int, int | None, int | None]]) -> Rows:
        key, sub_chunk = self._plan.key, self._plan.sub_chunk
        try:
            keys, chunks, subs = zip(*batch, strict=True)
            return Rows(
                np.array(keys, key.dtype),
                np.array([NO_CHUNK if chunk is None else chunk for chunk in chunks], np.int32),
                np.array([0 if sub is None else sub for sub in subs], sub_chunk.dtype),
            )
        except (OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"index '{self._tables.database}.{self._tables.index}' has values that do not fit the catalog's "
                f"column types ({key.sql}, {sub_chunk.sql}): build it again.",
                code=Code.INDEX_DIFFERS,
            ) from error


def no_rows(plan: Plan) -> Rows:
    """An empty set of rows, of a plan's types."""
    return Rows(np.empty(0, plan.key.dtype), np.empty(0, np.int32), np.empty(0, plan.sub_chunk.dtype))
