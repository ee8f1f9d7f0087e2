"""Claims, aliases and notes on collections: one JSON document in one row, changed by compare-and-swap."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa
from lancedb.table import Table

from airflow_reindex.core.failures import ClaimLostError, Code, RequestError, TransientError
from airflow_reindex.vectors.stores.lancedb.database import Database

T = TypeVar("T")
Document = dict[str, dict[str, Any]]

log = logging.getLogger(__name__)

NAME = "_reindex_registry"
_SCHEMA = pa.schema([("generation", pa.int64()), ("made_at", pa.float64()), ("document", pa.string())])
_TRIES = 100
#: LanceDB checks for a table and creates it in two steps, so of two processes that create it at the same time the later
#: one may replace what the earlier one has written. Nobody proceeds until this number of seconds has passed.
_SETTLE_SECONDS = 2.0
_KEEP = timedelta(hours=1)


def fence(document: Document, token: str) -> None:
    """
    Check that a claim exists.

    :raises ClaimLostError: it does not.
    """
    if all(claim["token"] != token for claim in document["claims"].values()):
        raise ClaimLostError("the claim is another run's by now; this run writes nothing more.")


class Registry:
    """
    The document, empty until it is prepared.

    A change updates the row if its generation is still the one that was read. LanceDB commits only one of two
    concurrent updates of a row, and checks the other one's condition again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._opened: Table | None = None

    def prepare(self) -> None:
        """Create the table unless it exists."""
        document = json.dumps({"claims": {}, "aliases": {}, "collections": {}})
        self._database.create(NAME, _SCHEMA, [{"generation": 0, "made_at": time.time(), "document": document}])
        age = time.time() - self._row()["made_at"]
        if 0 <= age < _SETTLE_SECONDS:
            time.sleep(_SETTLE_SECONDS - age)

    def read(self) -> Document:
        return self._document(self._row())

    def change(self, change: Callable[[Document], T]) -> T:
        """
        Change the document, all or nothing, and return the result of ``change``.

        :param change: changes the document in place; called again after each conflict with another writer.
        :raises TransientError: every attempt met a conflict.
        """
        for _ in range(_TRIES):
            table, row = self._table(), self._row()
            if table is None:
                raise RequestError(f"{self._database.uri}: there is no table {NAME}; nothing has been prepared.")
            document = self._document(row)
            result = change(document)
            if self._swap(table, row["generation"], document):
                return result
            time.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - spreads retries, no secret
        raise TransientError(f"{self._database.uri}: others change {NAME} all the time.")

    def _swap(self, table: Table, generation: int, document: Document) -> bool:
        try:
            with self._database.translated():
                done = table.update(
                    where=f"generation = {generation}",
                    values={"generation": generation + 1, "document": json.dumps(document)},
                )
        except TransientError as error:
            if error.code is not Code.BUSY:
                raise
            return False
        return bool(done.rows_updated == 1)

    def tidy(self) -> None:
        """Remove older versions of the table: each change leaves one, and each heartbeat is a change."""
        table = self._table()
        if table is not None:
            try:
                with self._database.translated():
                    table.optimize(cleanup_older_than=_KEEP)
            except TransientError as error:
                log.info("%s could not be tidied up: %s", NAME, error)

    def _table(self) -> Table | None:
        if self._opened is None:
            self._opened = self._database.table(NAME)
        return self._opened

    def _row(self) -> dict[str, Any]:
        table = self._table()
        if table is None:
            return {}
        with self._database.translated():
            rows: list[dict[str, Any]] = table.to_arrow().to_pylist()
        return rows[0]

    def _document(self, row: dict[str, Any]) -> Document:
        document: Document = json.loads(row.get("document", "{}"))
        return {"claims": {}, "aliases": {}, "collections": {}, **document}
