"""Nearest parts, and samples of stored vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from airflow_reindex.vectors.model.collection import Metric, Vectors
from airflow_reindex.vectors.stores.pgvector.schema import OPERATORS, Names

Connection = psycopg.Connection[Any]

#: The most candidates that pgvector's HNSW search looks at in one go.
_MAX_EF = 1000
#: Larger tables are sampled by blocks, of which some more rows are drawn than are needed.
_SMALL, _SURPLUS = 20_000, 8


def prepare(connection: Connection, k: int, ef_search: int, *, exact: bool) -> None:
    """
    Let the planner search as wanted, until the transaction's end.

    :param connection: in a transaction.
    :param k: how many are searched.
    :param ef_search: candidates to look at, at least.
    :param exact: by looking at all vectors; else by the ANN index.
    """
    if exact:
        connection.execute("SET LOCAL enable_indexscan = off")
        connection.execute("SET LOCAL enable_bitmapscan = off")
        return
    connection.execute("SET LOCAL enable_seqscan = off")
    # The path that sorts goes through another index otherwise.
    connection.execute("SET LOCAL enable_sort = off")
    connection.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(min(max(ef_search, k), _MAX_EF)))
    if k > _MAX_EF:
        # Since pgvector 0.8 the search can go on for more; earlier ones find as many as they have looked at.
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if row is not None and tuple(int(number) for number in row[0].split(".")[:2]) >= (0, 8):
            connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            connection.execute(sql.SQL("SET LOCAL hnsw.max_scan_tuples = {}").format(20 * k))


def nearest(names: Names, metric: Metric) -> sql.Composed:
    """
    The statement that finds the nearest parts; its values are the vector and how many.

    :param names: a collection's, or an alias's.
    :param metric: how distances are measured.
    """
    return sql.SQL(
        "SELECT part_id, object_id, d FROM (SELECT part_id, object_id, vector {operator} q AS d FROM {parts}, "
        "(SELECT %s::vector AS q) x WHERE vector IS NOT NULL ORDER BY vector {operator} q LIMIT %s) n ORDER BY d"
    ).format(operator=sql.SQL(OPERATORS[metric]), parts=names.parts)


def literal(vector: Vectors) -> str:
    """
    A vector as PostgreSQL reads it, to the last bit.

    :param vector: the vector.
    """
    return "[" + ",".join(map(repr, np.asarray(vector, dtype=np.float32).tolist())) + "]"


def sample(connection: Connection, names: Names, size: int) -> list[Vectors]:
    """
    Draw vectors of parts, no averages.

    :param connection: the connection.
    :param names: the collection's.
    :param size: how many at most.
    :returns: the vectors, in random order.
    """
    row = connection.execute(
        "SELECT reltuples::float8 FROM pg_class WHERE oid = to_regclass(%s)", (names.parts_path,)
    ).fetchone()
    rows = row[0] if row else 0.0
    percent = 100.0 * _SURPLUS * max(size, 100) / max(rows, 1.0)
    if rows > _SMALL and percent < 50:
        found = _draw(connection, names, size, sql.SQL("TABLESAMPLE SYSTEM ({})").format(percent))
        if len(found) >= size:
            return found
    return _draw(connection, names, size, sql.SQL(""))


def _draw(connection: Connection, names: Names, size: int, clause: sql.Composable) -> list[Vectors]:
    # Keys are shuffled, not vectors: these are long.
    statement = sql.SQL(
        "SELECT vector FROM {parts} WHERE part_id IN (SELECT part_id FROM {parts} {clause} "
        "WHERE is_average IS NOT TRUE AND vector IS NOT NULL ORDER BY random() LIMIT %s) ORDER BY random()"
    ).format(parts=names.parts, clause=clause)
    with connection.cursor(binary=True) as cursor:
        # pgvector's binary form: number of dimensions, 2 bytes of nothing, big-endian floats.
        return [
            np.frombuffer(content, dtype=">f4", offset=4).astype(np.float32)
            for (content,) in cursor.execute(statement, (size,))
        ]
