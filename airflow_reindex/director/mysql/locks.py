"""Named locks of the server, held by a session."""

from __future__ import annotations

from airflow_reindex.director.mysql.client import Connection, query


def try_lock(connection: Connection, name: str, seconds: int = 0) -> bool:
    """
    Acquire a lock, named in at most 64 characters; returns whether it was free within some seconds.

    It is held until it is released or the connection ends.
    """
    return query(connection, "SELECT GET_LOCK(%s, %s)", (name, seconds)) == [(1,)]


def unlock(connection: Connection, name: str) -> None:
    query(connection, "SELECT RELEASE_LOCK(%s)", (name,))


class LockSemaphore:
    """
    A semaphore shared by all sessions of a server, of which this one holds a slot at most.

    :param connection: whose end releases the slot.
    :param prefix: of the names of its locks, one per slot.
    :param size: the number of slots.
    """

    def __init__(self, connection: Connection, prefix: str, size: int) -> None:
        self._connection, self._size = connection, size
        self._names = [f"{prefix}.{slot}" for slot in range(size)]
        self._held: int | None = None

    def acquire(self, limit: int | None = None) -> bool:
        """
        Acquire one of the first ``limit`` slots without waiting, or keep the one held; returns whether one is held.

        :param limit: at most the size, which it is unless given; a slot beyond it is released.
        """
        limit = self._size if limit is None else limit
        if self._held is not None and self._held < limit:
            return True
        self.release()
        free = (slot for slot, name in enumerate(self._names[:limit]) if try_lock(self._connection, name))
        self._held = next(free, None)
        return self._held is not None

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            unlock(self._connection, self._names[held])

    def count(self) -> int:
        """The number of slots that any session holds."""
        taken = " + ".join(["(IS_USED_LOCK(%s) IS NOT NULL)"] * self._size)
        return int(query(self._connection, f"SELECT {taken}", self._names)[0][0])
