"""Locks of a session by name."""

from __future__ import annotations

from airflow_reindex.director.mysql.client import Connection, query


def try_lock(connection: Connection, name: str) -> bool:
    """
    Take a named lock of the server, without waiting.

    :param connection: holds it until it is released or the connection ends.
    :param name: at most 64 characters.
    :returns: whether it was free.
    """
    return query(connection, "SELECT GET_LOCK(%s, 0)", (name,)) == [(1,)]


def unlock(connection: Connection, name: str) -> None:
    """
    Release a named lock.

    :param connection: what holds it.
    :param name: its name.
    """
    query(connection, "SELECT RELEASE_LOCK(%s)", (name,))
