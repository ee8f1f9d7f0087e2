"""Named locks of the server, held by a session."""

from __future__ import annotations

from airflow_reindex.director.mysql.client import Connection, query


def try_lock(connection: Connection, name: str) -> bool:
    """
    Acquire a lock, named in at most 64 characters, without waiting; returns whether it was free.

    It is held until it is released or the connection ends.
    """
    return query(connection, "SELECT GET_LOCK(%s, 0)", (name,)) == [(1,)]


def unlock(connection: Connection, name: str) -> None:
    query(connection, "SELECT RELEASE_LOCK(%s)", (name,))
