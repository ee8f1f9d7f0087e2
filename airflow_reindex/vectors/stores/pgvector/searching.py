"""Nearest parts, and samples of stored vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from airflow_reindex.vectors.model.collection import Metric, Vectors
from airflow_reindex.vectors.stores.pgvector.schema import OPERATORS, Names

Connection = psycopg.Connection[Any]

#: The most candidates that pgvector's HNSW search considers at once.
_MAX_EF = 1000
#: Larger tables are sampled by blocks, with a surplus of rows.
_SMALL, _SURPLUS = 20_000, 8


def prepare(connection: Connection, k: int, ef_search: int, *, exact: bool) -> None:
    """
    Make the planner use or avoid the ANN index until the transaction's end.

    :param k: number of hits wanted.
    :param ef_search: candidates to consider, at least.
    :param exact: compare all vectors instead of using the ANN index.
    """
    if exact:
        connection.execute("SET LOCAL enable_indexscan = off")
        connection.execute("SET LOCAL enable_bitmapscan = off")
        return
    connection.execute("SET LOCAL enable_seqscan = off")
    # Otherwise the planner may sort the result of another index.
    connection.execute("SET LOCAL enable_sort = off")
    connection.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(min(max(ef_search, k), _MAX_EF)))
    if k > _MAX_EF:
        # Since pgvector 0.8 a search continues when too few remain; earlier versions return only from the first
        # candidates.
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if row is not None and tuple(int(number) for number in row[0].split(".")[:2]) >= (0, 8):
            connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            connection.execute(sql.SQL("SET LOCAL hnsw.max_scan_tuples = {}").format(20 * k))


def nearest(names: Names, metric: Metric) -> sql.Composed:
    """Return the statement that finds the nearest parts; its values are the vector and the number of hits."""
    return sql.SQL(
        "SELECT part_id, object_id, d FROM (SELECT part_id, object_id, vector {operator} q AS d FROM {parts}, "
        "(SELECT %s::vector AS q) x WHERE vector IS NOT NULL ORDER BY vector {operator} q LIMIT %s) n ORDER BY d"
    ).format(operator=sql.SQL(OPERATORS[metric]), parts=names.parts)


def literal(vector: Vectors) -> str:
    """Format a vector for PostgreSQL without loss of precision."""
    return "[" + ",".join(map(repr, np.asarray(vector, dtype=np.float32).tolist())) + "]"


def sample(connection: Connection, names: Names, size: int) -> list[Vectors]:
    """Draw at most ``size`` vectors of parts (no averages), in random order."""
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
    # Keys are shuffled instead of vectors, which are long.
    statement = sql.SQL(
        "SELECT vector FROM {parts} WHERE part_id IN (SELECT part_id FROM {parts} {clause} "
        "WHERE is_average IS NOT TRUE AND vector IS NOT NULL ORDER BY random() LIMIT %s) ORDER BY random()"
    ).format(parts=names.parts, clause=clause)
    with connection.cursor(binary=True) as cursor:
        # pgvector's binary format: number of dimensions, 2 unused bytes, big-endian floats.
        return [
            np.frombuffer(content, dtype=">f4", offset=4).astype(np.float32)
            for (content,) in cursor.execute(statement, (size,))
        ]
