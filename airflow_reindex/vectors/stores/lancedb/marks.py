"""What a destination remembers of its items: a table beside it, written before rows change, and after it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
from lancedb.table import Table

from airflow_reindex.vectors.model.collection import Mark, Stage
from airflow_reindex.vectors.stores.lancedb.database import Database, literal, one_of, read

# With a primary key, LanceDB lets only one of two tries of a task insert a row.
KEY = {"lance-schema:unenforced-primary-key": "true"}
MARKS = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False, metadata=KEY),
        ("version", pa.binary()),
        ("recipe", pa.binary()),
        *((name, pa.string()) for name in ("content", "stage", "detail", "run")),
    ]
)
#: The stage of a mark whose row is about to change. Its detail has the versions of the row before and after it.
_PENDING = "pending"


class Marks:
    """
    The marks of a destination.

    :param database: the store's.
    :param table: the table; ``None`` for a collection that others have made: nothing is remembered of it.
    """

    def __init__(self, database: Database, table: Table | None) -> None:
        self._database, self._opened = database, table

    @property
    def _table(self) -> Table:
        assert self._opened is not None  # noqa: S101 - for the type checker
        return self._opened

    def read(self, condition: str, keys: Sequence[str] | None, rows: Mapping[str, bytes]) -> dict[str, Mark]:
        """
        Read marks.

        A mark that announces a change says whether the row is one of the two that this package has made: then the item
        is to be done again, and else the row is somebody else's.

        :param condition: of which objects.
        :param keys: of these objects only; ``None``: of all.
        :param rows: the versions of the rows that are there, by object id.
        :returns: by object id.
        """
        if self._opened is None:
            return {}
        with self._database.translated():
            found = read(self._opened, MARKS.names, condition, keys).to_pylist()
        marks = {row.pop("object_id"): Mark(**row) for row in found}
        return {key: _ended(mark, rows.get(key)) for key, mark in marks.items()}

    def announce(self, changes: Mapping[str, tuple[bytes | None, bytes | None]]) -> None:
        """
        Write down what is about to become of rows, so that nobody takes a half-done change for somebody else's.

        :param changes: the versions of the row before and after, by object id; ``None``: there is no row.
        """
        marks = {}
        for key, versions in changes.items():
            text = json.dumps([version.hex() if version is not None else None for version in versions])
            marks[key] = Mark(versions[1] or b"", b"", stage=_PENDING, detail=text)
        if marks:
            self.remember(marks)

    def remember(self, marks: Mapping[str, Mark]) -> None:
        """
        Remember items.

        :param marks: by object id.
        """
        texts = {name: [getattr(mark, name) for mark in marks.values()] for name in ("content", "run")}
        rows = {
            "object_id": list(marks),
            "version": [mark.version for mark in marks.values()],
            "recipe": [mark.recipe for mark in marks.values()],
            **texts,
            "stage": [str(mark.stage) for mark in marks.values()],
            # An error's text may quote anything, also half a surrogate pair.
            "detail": [mark.detail.encode("utf-8", "replace").decode() for mark in marks.values()],
        }
        with self._database.translated():
            table = pa.table(rows, schema=MARKS)
            self._table.merge_insert("object_id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def forget(self, keys: Sequence[str]) -> None:
        """
        Remove marks.

        :param keys: of these objects, at least one.
        """
        if self._opened is not None:
            with self._database.translated():
                self._opened.delete(one_of("object_id", keys))

    def count_failed(self, run: str) -> int:
        """
        How many items a run has marked as failed.

        :param run: the run.
        """
        if self._opened is None:
            return 0
        with self._database.translated():
            return self._opened.count_rows(f"run = {literal(run)} AND stage <> ''")


def _ended(mark: Mark, row: bytes | None) -> Mark:
    """What a mark that announces a change says of the row that is there by now; others say what they say."""
    if mark.stage != _PENDING:
        return mark
    before, after = (None if text is None else bytes.fromhex(text) for text in json.loads(mark.detail))
    if row in (before, after):
        return Mark(row or b"", b"", stage=Stage.OTHER, detail="a task died while it wrote this item")
    return Mark(after or before or b"", b"")
