"""Sync state of a destination's items: a table beside it, written before and after rows change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
from lancedb.table import Table

from airflow_reindex.vectors.model.collection import Stage, SyncState
from airflow_reindex.vectors.stores.lancedb.database import Database, literal, one_of, read

# With a primary key, LanceDB lets only one of two attempts of a task insert a row.
KEY = {"lance-schema:unenforced-primary-key": "true"}
# `recipe` holds the embedding config hash, `run` the plan's token: names of the first version, kept so that its tables
# stay readable.
MARKS = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False, metadata=KEY),
        ("version", pa.binary()),
        ("recipe", pa.binary()),
        *((name, pa.string()) for name in ("content", "stage", "detail", "run")),
    ]
)
#: Stage of a mark whose row is about to change; its detail has the row's versions before and after the change.
_PENDING = "pending"


class Marks:
    """
    The marks of a destination.

    :param table: ``None`` for a collection made by other software, which has no marks.
    """

    def __init__(self, database: Database, table: Table | None) -> None:
        self._database, self._opened = database, table

    @property
    def _table(self) -> Table:
        assert self._opened is not None  # noqa: S101 - for the type checker
        return self._opened

    def read(self, condition: str, keys: Sequence[str] | None, rows: Mapping[str, bytes]) -> dict[str, SyncState]:
        """
        Return marks by object id.

        A mark that announces a change tells whether the row is one of the two versions that this package wrote: then
        the item is to be done again; otherwise the row is another writer's.

        :param keys: restricts the condition to these objects.
        :param rows: the versions of existing rows, by object id.
        """
        if self._opened is None:
            return {}
        with self._database.translated():
            found = read(self._opened, MARKS.names, condition, keys).to_pylist()
        marks = {row["object_id"]: SyncState(*(row[name] for name in MARKS.names[1:])) for row in found}
        return {key: _ended(mark, rows.get(key)) for key, mark in marks.items()}

    def announce(self, changes: Mapping[str, tuple[bytes | None, bytes | None]]) -> None:
        """
        Announce changes of rows, so that nobody takes a half-done change for another writer's.

        :param changes: the row's versions before and after, by object id; ``None``: no row.
        """
        marks = {}
        for key, versions in changes.items():
            text = json.dumps([version.hex() if version is not None else None for version in versions])
            marks[key] = SyncState(versions[1] or b"", b"", stage=_PENDING, detail=text)
        if marks:
            self.remember(marks)

    def remember(self, marks: Mapping[str, SyncState]) -> None:
        """Insert or replace marks."""
        rows = {
            "object_id": list(marks),
            "version": [mark.version for mark in marks.values()],
            "recipe": [mark.embedding_config_hash for mark in marks.values()],
            "content": [mark.content for mark in marks.values()],
            "stage": [str(mark.stage) for mark in marks.values()],
            # An error's text may quote anything, also half a surrogate pair.
            "detail": [mark.detail.encode("utf-8", "replace").decode() for mark in marks.values()],
            "run": [mark.plan_token for mark in marks.values()],
        }
        with self._database.translated():
            table = pa.table(rows, schema=MARKS)
            self._table.merge_insert("object_id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def forget(self, keys: Sequence[str]) -> None:
        """Remove the marks of at least one object."""
        if self._opened is not None:
            with self._database.translated():
                self._opened.delete(one_of("object_id", keys))

    def count_failed(self, plan_token: str) -> int:
        if self._opened is None:
            return 0
        with self._database.translated():
            return self._opened.count_rows(f"run = {literal(plan_token)} AND stage <> ''")


def _ended(mark: SyncState, row: bytes | None) -> SyncState:
    """Resolve a mark that announces a change by the row that exists now; return other marks as they are."""
    if mark.stage != _PENDING:
        return mark
    before, after = (None if text is None else bytes.fromhex(text) for text in json.loads(mark.detail))
    if row in (before, after):
        return SyncState(row or b"", b"", stage=Stage.OTHER, detail="a task died while it wrote this item")
    return SyncState(after or before or b"", b"")
