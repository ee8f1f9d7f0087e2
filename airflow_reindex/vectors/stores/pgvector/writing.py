"""Writing rows: COPY's binary format for vectors, set-based statements for the rest."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Embedded, SyncState
from airflow_reindex.vectors.stores.pgvector.schema import Names

Connection = psycopg.Connection[Any]

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = struct.pack("!i", -1)
_IS_AVERAGE = {False: struct.pack("!i?", 1, False), True: struct.pack("!i?", 1, True)}
#: Bytes per write to the driver.
_BLOCK = 1 << 18

#: Equal for equal contents of a row. The text form of a row shows unambiguously where columns end and which are NULL.
#: Where a source's columns have other types than ours (json, text), the version is that of the row written from it.
VERSION = sql.SQL(
    "substring(sha256(convert_to(ROW(o.payload::jsonb, o.storage_meta::jsonb, o.user_id::text, o.session_id::text)"
    "::text, 'UTF8')) FOR 16)"
)


def key_range(column: str, after: str | None, until: str | None) -> tuple[sql.Composable, list[Any]]:
    """
    Return a condition for a key range in the column's own order, and its values.

    :param column: may include the table's alias.
    """
    name = sql.SQL(".").join(sql.Identifier(part) for part in column.split("."))
    conditions: list[sql.Composable] = [sql.SQL("true")]
    values = list[Any]()
    for operator, bound in ((sql.SQL(">"), after), (sql.SQL("<="), until)):
        if bound is not None:
            conditions.append(sql.SQL("{} {} %s").format(name, operator))
            values.append(bound)
    return sql.SQL(" AND ").join(conditions), values


def copy_blocks(batch: Sequence[Embedded], dimensions: int) -> Iterator[bytes]:
    """
    Encode the parts of objects, and their averages, in COPY's binary format.

    :returns: blocks of bytes.
    :raises DataError: an object has no vectors, or they have the wrong shape.
    """
    parts, size = [_HEADER], len(_HEADER)
    for embedded in batch:
        for piece in _rows(embedded, dimensions):
            parts.append(piece)
            size += len(piece)
        if size > _BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join([*parts, _TRAILER])


def _rows(embedded: Embedded, dimensions: int) -> Iterator[bytes]:
    vectors = embedded.vectors
    if vectors.ndim != 2 or len(vectors) == 0 or vectors.shape[1] != dimensions:
        raise DataError(
            f"object '{embedded.item.object_id}': vectors of the shape (parts, {dimensions}) are needed, not "
            f"{vectors.shape}."
        )
    content = np.concatenate([vectors, embedded.average[np.newaxis]]).astype(">f4").tobytes()
    length = 4 * dimensions
    object_id = _text(embedded.item.object_id) + struct.pack("!ihh", length + 4, dimensions, 0)
    user = _NULL if embedded.item.user_id is None else _text(embedded.item.user_id)
    part_tail, average_tail = _IS_AVERAGE[False] + user, _IS_AVERAGE[True] + user
    names = embedded.part_ids
    for number, name in enumerate(names):
        part_id = name.encode()
        yield struct.pack("!hi", 5, len(part_id)) + part_id + object_id
        yield content[number * length : (number + 1) * length]
        yield average_tail if number == len(names) - 1 else part_tail


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("!i", len(encoded)) + encoded


def copy_parts(connection: Connection, names: Names, batch: Sequence[Embedded], dimensions: int) -> None:
    """Insert the parts of objects that have none."""
    statement = sql.SQL("COPY {} (part_id, object_id, vector, is_average, user_id) FROM STDIN (FORMAT BINARY)").format(
        names.parts
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for block in copy_blocks(batch, dimensions):
            copy.write(block)


def upsert_objects(
    connection: Connection, names: Names, batch: Sequence[Embedded], replaceable: list[str] | None
) -> dict[str, bool]:
    """
    Insert or replace rows of objects, each object once.

    :param replaceable: ids of rows that may be replaced; ``None``: all.
    :returns: the written objects, and whether there may have been an older row.
    """
    items = [embedded.item for embedded in batch]
    statement = sql.SQL(
        "INSERT INTO {objects} AS o (object_id, payload, storage_meta, user_id, session_id) "
        "SELECT object_id, payload::jsonb, storage_meta::jsonb, user_id, session_id "
        "FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[]) "
        "AS i (object_id, payload, storage_meta, user_id, session_id) "
        "ON CONFLICT (object_id) DO UPDATE SET payload = EXCLUDED.payload, storage_meta = EXCLUDED.storage_meta, "
        "user_id = EXCLUDED.user_id, session_id = EXCLUDED.session_id "
        # A user's copy may have the same id; it must not be replaced.
        "WHERE o.original_id IS NULL AND {guard} RETURNING object_id, xmax <> 0"
    ).format(
        objects=names.objects, guard=sql.SQL("true" if replaceable is None else "o.object_id = ANY(%s::varchar[])")
    )
    values: list[Any] = [
        [item.object_id for item in items],
        [item.payload_json for item in items],
        [item.storage_meta_json for item in items],
        [item.user_id for item in items],
        [item.session_id for item in items],
    ]
    if replaceable is not None:
        values.append(replaceable)
    return dict(connection.execute(statement, values).fetchall())


def find_copies(connection: Connection, names: Names, keys: Sequence[str]) -> list[str]:
    """Return the ids that belong to users' copies."""
    statement = sql.SQL(
        "SELECT object_id FROM {} WHERE object_id = ANY(%s::varchar[]) AND original_id IS NOT NULL ORDER BY 1"
    ).format(names.objects)
    return [key for (key,) in connection.execute(statement, (list(keys),)).fetchall()]


def delete_parts(connection: Connection, names: Names, keys: Sequence[str]) -> None:
    """Remove all parts of objects."""
    statement = sql.SQL("DELETE FROM {} WHERE object_id = ANY(%s::varchar[])").format(names.parts)
    connection.execute(statement, (list(keys),))


def delete_objects(connection: Connection, names: Names, keys: Sequence[str], *, copies: bool) -> None:
    """
    Remove originals with their parts.

    :param copies: also remove users' copies of them.
    """
    which: sql.Composable = sql.SQL("(object_id = ANY(%s::varchar[]) AND original_id IS NULL)")
    values = [list(keys)]
    if copies:
        which = which + sql.SQL(" OR original_id = ANY(%s::varchar[])")
        values.append(list(keys))
    # Locked first: a writer that adds a part needs a lock on the object, and waits.
    found = connection.execute(
        sql.SQL("SELECT object_id FROM {} WHERE {} FOR UPDATE").format(names.objects, which), values
    ).fetchall()
    doomed = [object_id for (object_id,) in found]
    if doomed:
        delete_parts(connection, names, doomed)
        statement = sql.SQL("DELETE FROM {} WHERE object_id = ANY(%s::varchar[])").format(names.objects)
        connection.execute(statement, (doomed,))


def upsert_marks(connection: Connection, names: Names, marks: Mapping[str, SyncState]) -> None:
    """Insert or replace marks."""
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (object_id, version, recipe, content, stage, detail, run) SELECT * FROM "
            "unnest(%b::text[], %b::bytea[], %b::bytea[], %b::text[], %b::text[], %b::text[], %b::text[]) "
            "ON CONFLICT (object_id) DO UPDATE SET version = EXCLUDED.version, recipe = EXCLUDED.recipe, "
            "content = EXCLUDED.content, stage = EXCLUDED.stage, detail = EXCLUDED.detail, run = EXCLUDED.run"
        ).format(names.marks),
        (
            list(marks),
            [mark.version for mark in marks.values()],
            [mark.embedding_config_hash for mark in marks.values()],
            [mark.content for mark in marks.values()],
            [str(mark.stage) for mark in marks.values()],
            [_storable(mark.detail) for mark in marks.values()],
            [mark.plan_token for mark in marks.values()],
        ),
    )


def _storable(text: str) -> str:
    """Replace what PostgreSQL cannot store: NUL and half a surrogate pair, which a quoted error may have."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


@dataclass(frozen=True, kw_only=True)
class SortedRows:
    """
    Objects by whether another writer has changed them.

    :param unchanged: their rows match their marks.
    :param written: their rows do not.
    :param removed: they were written, and have no row.
    """

    unchanged: list[str]
    written: set[str]
    removed: set[str]

    @property
    def foreign(self) -> set[str]:
        """Written and removed objects."""
        return self.written | self.removed


def sort_rows(connection: Connection, names: Names, keys: Sequence[str]) -> SortedRows:
    """
    Classify objects by whether another writer has changed their rows, and lock the existing rows.

    :param keys: users' copies among them are ignored.
    """
    rows = connection.execute(
        sql.SQL(
            "SELECT o.object_id, {}, o.original_id IS NULL FROM {} o WHERE o.object_id = ANY(%s::varchar[]) "
            "ORDER BY o.object_id FOR UPDATE"
        ).format(VERSION, names.objects),
        (list(keys),),
    ).fetchall()
    marks = connection.execute(
        sql.SQL("SELECT object_id, version, stage FROM {} WHERE object_id = ANY(%s::varchar[])").format(names.marks),
        (list(keys),),
    ).fetchall()
    present = {key: version for key, version, _ in rows}
    unchanged = [key for key, version, _ in marks if present.get(key) == version]
    return SortedRows(
        unchanged=unchanged,
        written={key for key, _, original in rows if original}.difference(unchanged),
        removed={key for key, _, stage in marks if key not in present and not stage},
    )
