"""Vectors shared by several parts, found on the server."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from airflow_reindex.vectors.model.collection import Twins
from airflow_reindex.vectors.stores.pgvector.schema import Names

Connection = psycopg.Connection[Any]


def find_twins(connection: Connection, names: Names, size: int) -> Twins:
    """
    Count the parts whose vector another part has, too, and draw ``size`` pairs of them.

    The server reads all vectors once and groups their hashes, on disk where its work_mem is too small.
    """
    parts = sql.SQL(
        "FROM {parts} p JOIN {objects} o USING (object_id) "
        "WHERE o.original_id IS NULL AND p.is_average IS NOT TRUE AND p.vector IS NOT NULL"
    ).format(parts=names.parts, objects=names.objects)
    groups = connection.execute(
        # The first and the last part of a group.
        sql.SQL(
            "SELECT n, first, last, sum(n) OVER ()::bigint FROM (SELECT count(*) AS n, min(part_id) AS first, "
            "max(part_id) AS last, h FROM (SELECT p.part_id, substring(sha256(vector_send(p.vector)) FOR 16) AS h "
            "{parts}) v GROUP BY h HAVING count(*) > 1) g ORDER BY n DESC, h LIMIT %s"
        ).format(parts=parts),
        (size,),
    ).fetchall()
    if not groups:
        return Twins()
    total = connection.execute(sql.SQL("SELECT count(*) {}").format(parts)).fetchone()
    ids = [part_id for _, first, last, _ in groups for part_id in (first, last)]
    found = connection.execute(
        sql.SQL("SELECT part_id, object_id FROM {} WHERE part_id = ANY(%s::varchar[])").format(names.parts), (ids,)
    ).fetchall()
    objects = dict(found)
    return Twins(
        parts=total[0] if total else 0,
        shared=groups[0][3],
        pairs=[
            (count, (first, objects[first]), (last, objects[last]))
            for count, first, last, _ in groups
            if first in objects and last in objects
        ],
    )
