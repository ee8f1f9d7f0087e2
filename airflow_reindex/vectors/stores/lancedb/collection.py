"""One collection: a table with a row for each part and average, and a table of marks beside it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from lancedb.index import HnswSq
from lancedb.query import ColumnOrdering, LanceVectorQueryBuilder
from lancedb.table import Table

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import (
    MAX_ID,
    CollectionInfo,
    DestState,
    Embedded,
    Hit,
    IntegrityErrors,
    Item,
    Metric,
    SyncState,
    Twins,
    Vectors,
)
from airflow_reindex.vectors.stores.lancedb.database import Database, one_of, read, within
from airflow_reindex.vectors.stores.lancedb.marks import KEY, Marks
from airflow_reindex.vectors.stores.lancedb.registry import Registry, fence
from airflow_reindex.vectors.stores.lancedb.twins import find_twins

DISTANCES: dict[Metric, Literal["cosine", "l2", "dot"]] = {"cosine": "cosine", "euclid": "l2", "dot": "dot"}
#: The average's row stands for the object.
_ORIGINALS = "is_average AND original_id IS NULL"
_ROW = ["object_id", "payload", "storage_meta", "user_id", "session_id"]
_MOST_LISTED = 100
#: Candidates of a search, and the factor of those compared by their full vectors, as the index is quantized to bytes.
_EF, _REFINE = 100, 4


def schema(dimensions: int) -> pa.Schema:
    """Return the columns of a collection's table."""
    return pa.schema(
        [
            pa.field("part_id", pa.string(), nullable=False, metadata=KEY),
            ("object_id", pa.string()),
            ("vector", pa.list_(pa.float32(), dimensions)),
            ("is_average", pa.bool_()),
            *((name, pa.string()) for name in ("user_id", "original_id", "payload", "storage_meta", "session_id")),
        ]
    )


def _version(row: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps([row[name] for name in _ROW[1:]]).encode()).digest()[:16]


def _columns(item: Item) -> dict[str, Any]:
    """Return the columns of an item's row that its version covers."""
    values = (item.object_id, item.payload_json, item.storage_meta_json, item.user_id, item.session_id)
    return dict(zip(_ROW, values, strict=True))


def _row(states: Mapping[str, DestState], key: str) -> bytes | None:
    state = states.get(key)
    return state.row if state else None


class LanceCollection:
    """
    A collection that exists; see :class:`airflow_reindex.vectors.model.collection.Collection`.

    LanceDB commits one table at a time. A batch's rows are one commit between two commits of their marks: first what
    the rows are about to become, then what they are. A crash in between leaves rows that are still recognized as this
    package's own, and are embedded again.

    :param marks: ``None`` for a collection made by other software.
    """

    def __init__(
        self, database: Database, registry: Registry, info: CollectionInfo, table: Table, marks: Table | None
    ) -> None:
        self._database, self._registry, self._info = database, registry, info
        self._table, self._marks = table, Marks(database, marks)

    @property
    def info(self) -> CollectionInfo:
        return self._info

    def count(self) -> int:
        return self._count(_ORIGINALS)

    def count_user_objects(self) -> int:
        return self._count("is_average AND original_id IS NOT NULL")

    def _count(self, condition: str) -> int:
        with self._database.translated():
            return self._table.count_rows(condition)

    def keys(self, batch: int) -> Iterator[list[str]]:
        last: str | None = None
        while True:
            with self._database.translated():
                query = self._table.search().where(f"{_ORIGINALS} AND {within(last, None)}").select(["object_id"])
                ordered = query.order_by([ColumnOrdering(column_name="object_id")])
                keys: list[str] = ordered.limit(batch).to_arrow()["object_id"].to_pylist()
            if keys:
                yield keys
                last = keys[-1]
            if len(keys) < batch:
                return

    def versions(self, after: str | None, until: str | None, since: str | None = None) -> dict[str, bytes]:
        """Return nothing when the table has not changed since the watermark, else the versions of all originals."""
        if since is not None and since == self.watermark():
            return {}
        return {row["object_id"]: _version(row) for row in self._rows(f"{_ORIGINALS} AND {within(after, until)}")}

    def watermark(self) -> str:
        """The table's version, which each write raises."""
        with self._database.translated():
            return str(self._table.version)

    def items(self, keys: Sequence[str]) -> list[Item]:
        return [
            Item(
                row["object_id"],
                row["payload"],
                row["storage_meta"],
                _version(row),
                row["user_id"],
                row["session_id"],
            )
            for row in self._rows(_ORIGINALS, keys)
        ]

    def missing_keys(self, keys: Sequence[str]) -> list[str]:
        with self._database.translated():
            there = set(read(self._table, ["object_id"], _ORIGINALS, keys)["object_id"].to_pylist())
        return [key for key in keys if key not in there]

    def _rows(self, condition: str, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        with self._database.translated():
            rows: list[dict[str, Any]] = read(self._table, _ROW, condition, keys).to_pylist()
        return rows

    def states(self, after: str | None, until: str | None, keys: Sequence[str] | None = None) -> dict[str, DestState]:
        condition = within(after, until)
        rows = {row["object_id"]: _version(row) for row in self._rows(f"{_ORIGINALS} AND {condition}", keys)}
        marks = self._marks.read(condition, keys, rows)
        return {key: DestState(rows.get(key), marks.get(key)) for key in {**rows, **marks}}

    def put(self, token: str, batch: Sequence[Embedded], *, only_unchanged: bool = False) -> list[str]:
        """Write rows and marks in separate commits; see the class."""
        ids = [embedded.item.object_id for embedded in batch]
        if not ids:
            return []
        states = self.states(None, None, ids)
        foreign = self._foreign(states, ids, only_unchanged)
        landing = [embedded for embedded in batch if embedded.item.object_id not in foreign]
        rows = self._layout(landing)
        fence(self._registry.read(), token)
        if landing:
            self._marks.announce(
                {e.item.object_id: (_row(states, e.item.object_id), _version(_columns(e.item))) for e in landing}
            )
            replaced = one_of("object_id", [embedded.item.object_id for embedded in landing])
            fence(self._registry.read(), token)
            with self._database.translated():
                (
                    self._table.merge_insert("part_id")
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .when_not_matched_by_source_delete(f"{replaced} AND original_id IS NULL")
                    .execute(rows)
                )
            self._marks.remember({embedded.item.object_id: embedded.sync for embedded in landing})
        return [key for key in ids if key in foreign]

    def _foreign(self, states: Mapping[str, DestState], ids: Sequence[str], only_unchanged: bool) -> set[str]:
        """Return the objects that must not be replaced."""
        with self._database.translated():
            copies = set(read(self._table, ["object_id"], "original_id IS NOT NULL", ids)["object_id"].to_pylist())
        if copies:
            raise DataError(f"object '{min(copies)}': a user's copy of another object has this id.")
        if not only_unchanged:
            return set()
        return {key for key, state in states.items() if state.is_foreign}

    def _layout(self, batch: Sequence[Embedded]) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in schema(0).names if name != "vector"}
        vectors = [np.empty((0, self._info.dimensions), np.float32)]
        for embedded in batch:
            item, size = embedded.item, len(embedded.vectors)
            if embedded.vectors.shape != (size or 1, self._info.dimensions) or not np.isfinite(embedded.vectors).all():
                raise DataError(
                    f"object '{item.object_id}': finite vectors of the shape (parts, {self._info.dimensions}) are "
                    f"needed, not {embedded.vectors.shape}."
                )
            if len(item.object_id) > MAX_ID:
                raise DataError(f"object '{item.object_id}': its id is longer than {MAX_ID} characters.")
            vectors += [embedded.vectors, embedded.average[np.newaxis]]
            columns["part_id"] += embedded.part_ids
            columns["object_id"] += [item.object_id] * (size + 1)
            columns["is_average"] += [False] * size + [True]
            columns["user_id"] += [item.user_id] * (size + 1)
            columns["original_id"] += [None] * (size + 1)
            columns["payload"] += [None] * size + [item.payload_json]
            columns["storage_meta"] += [None] * size + [item.storage_meta_json]
            columns["session_id"] += [None] * size + [item.session_id]
        flat = pa.array(np.concatenate(vectors).astype(np.float32).ravel())
        arrays = {**columns, "vector": pa.FixedSizeListArray.from_arrays(flat, self._info.dimensions)}
        # pyarrow's errors, for example for half a surrogate pair, are ValueErrors.
        with self._database.translated():
            return pa.table(arrays, schema=schema(self._info.dimensions))

    def fail(
        self, token: str, failed: Mapping[str, SyncState], *, keep_rows: bool = False, only_unchanged: bool = False
    ) -> list[str]:
        """Remove older rows first, then write the marks."""
        fence(self._registry.read(), token)
        if not failed:
            return []
        states = self.states(None, None, list(failed))
        left = {key for key, state in states.items() if only_unchanged and state.is_foreign}
        mine = {key: mark for key, mark in failed.items() if key not in left}
        if not keep_rows:
            self._remove([key for key in mine if _row(states, key)], states, copies=False)
        if mine:
            self._marks.remember(mine)
        return [key for key in failed if key in left]

    def delete(self, token: str, keys: Sequence[str], *, only_unchanged: bool = False) -> list[str]:
        """Remove rows first, then the marks."""
        states = self.states(None, None, keys)
        # A mark without a row protects nothing.
        left = {key for key, state in states.items() if only_unchanged and state.row and state.is_foreign}
        mine = [key for key in keys if key not in left]
        fence(self._registry.read(), token)
        if mine:
            self._remove(mine, states, copies=True)
            self._marks.forget(mine)
        return [key for key in keys if key in left]

    def _remove(self, keys: Sequence[str], states: Mapping[str, DestState], *, copies: bool) -> None:
        """Remove originals; their marks announce it first, so that the removal is not taken for another writer's."""
        if not keys:
            return
        self._marks.announce({key: (row, None) for key in keys if (row := _row(states, key))})
        condition = f"({one_of('object_id', keys)} AND original_id IS NULL)"
        if copies:
            condition += f" OR {one_of('original_id', keys)}"
        with self._database.translated():
            self._table.delete(condition)

    def count_failed(self, plan_token: str) -> int:
        return self._marks.count_failed(plan_token)

    def integrity_errors(self, after: str | None, until: str | None) -> IntegrityErrors:
        """Report an object without its average as incomplete, not its parts as orphans: it is repaired as a whole."""
        condition = f"original_id IS NULL AND {within(after, until)}"
        with self._database.translated():
            seen = set(read(self._table, ["object_id"], condition)["object_id"].to_pylist())
            complete = set(seen)
            for which in ("is_average", "is_average IS NOT TRUE"):
                found = read(self._table, ["object_id"], f"{condition} AND vector IS NOT NULL AND {which}")
                complete &= set(found["object_id"].to_pylist())
        return IntegrityErrors(incomplete=tuple(sorted(seen - complete)[:_MOST_LISTED]))

    def twins(self, size: int) -> Twins:
        with self._database.translated():
            return find_twins(self._table, self._info.dimensions, size)

    def has_index(self) -> bool:
        """Whether the ANN index exists; rows written after it was built are searched as well."""
        with self._database.translated():
            return any("vector" in index.columns for index in self._table.list_indices())

    def build_index(self, token: str) -> None:
        """Build the ANN index; when it exists, add what was written since."""
        fence(self._registry.read(), token)
        built = self.has_index()
        with self._database.translated():
            # Merges the many small files left by single writes.
            self._table.optimize()
            if not built:
                info = self._info
                config = HnswSq(distance_type=DISTANCES[info.metric], m=info.m, ef_construction=info.ef_construction)
                self._table.create_index("vector", config=config)

    def sample(self, size: int) -> Vectors:
        with self._database.translated():
            count = self._table.count_rows()
            # At least every other row is a part; some more are drawn to allow for chance.
            offsets = random.sample(range(count), min(count, 3 * size + 100))
            drawn = self._table.take_offsets(offsets).select(["vector", "is_average"]).to_arrow()
        vectors = [row["vector"] for row in drawn.to_pylist() if row["vector"] and not row["is_average"]]
        return np.array(vectors[:size], dtype=np.float32).reshape(-1, self._info.dimensions)

    def search(self, vector: Vectors, k: int, *, exact: bool = False) -> list[Hit]:
        with self._database.translated():
            query = self._table.search(vector, vector_column_name="vector")
            assert isinstance(query, LanceVectorQueryBuilder)  # noqa: S101 - for the type checker
            query = query.distance_type(DISTANCES[self._info.metric])
            query = query.bypass_vector_index() if exact else query.ef(max(_EF, _REFINE * k)).refine_factor(_REFINE)
            found = query.select(["part_id", "object_id", "_distance"]).limit(k).to_list()
        return [Hit(row["part_id"], row["object_id"], row["_distance"]) for row in found]
