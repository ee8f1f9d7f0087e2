"""Which group an extract task reads next: no worker gets too many connections, no task waits for a slow one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import MySQLdb

from airflow_reindex.director.mysql.client import Connection, execute, query
from airflow_reindex.director.mysql.locks import LockSemaphore, try_lock, unlock

#: Seconds after which the server closes the session of a task that sends nothing, such as one whose network is cut: a
#: retry would wait for its locks. Longer than a worker may take to answer, as a task sends nothing to the czar while it
#: waits for one.
SILENT_SECONDS = 900
#: Seconds between two statements that keep the session of a reading task open.
STAY_SECONDS = 30.0


class GroupScheduler:
    """
    Named locks of the czar's server: one per group, and some slots per worker. They end with their connection.

    :param connection: the czar's server, used for nothing else.
    :param token: the plan.
    :param most: slots per worker: connections at a time, of all builds that use the same czar.
    """

    def __init__(self, connection: Connection, token: str, most: int) -> None:
        self._connection, self._token, self._most = connection, token, most
        self._slots: dict[str, LockSemaphore] = {}
        self._said = time.monotonic()
        execute(connection, f"SET SESSION wait_timeout = {SILENT_SECONDS}")

    def stay(self) -> None:
        """Keep the session and its locks; to be called at least every ``SILENT_SECONDS``, cheap to call more often."""
        if time.monotonic() - self._said < STAY_SECONDS:
            return
        self._said = time.monotonic()
        # Without its locks a task may read the same as another one: no reason to give up what it has read.
        with suppress(MySQLdb.Error):
            query(self._connection, "SELECT 1")

    def acquire_slot(self, worker: str) -> bool:
        """
        Acquire a slot for a connection to a worker, or keep the one held.

        No connection to another worker may be open: two tasks that each wait for the other's worker would deadlock.

        :returns: whether the connection may be made now.
        """
        for other in self._slots.keys() - {worker}:
            self._slots[other].release()
        if worker not in self._slots:
            mark = hashlib.sha256(worker.encode()).hexdigest()[:12]
            self._slots[worker] = LockSemaphore(self._connection, f"airflow_reindex.worker.{mark}", self._most)
        return self._slots[worker].acquire()

    def begin(self, group: int, worker: str) -> bool:
        """Begin to read a group; false when another task reads it, or its worker has no free slot."""
        if not try_lock(self._connection, self._group(group)):
            return False
        if self.acquire_slot(worker):
            return True
        unlock(self._connection, self._group(group))
        return False

    def end(self, group: int) -> None:
        """Release a group that was read, and the worker's slot; no connection to a worker is open any more."""
        for slots in self._slots.values():
            slots.release()
        unlock(self._connection, self._group(group))

    def _group(self, group: int) -> str:
        return f"airflow_reindex.{self._token}.group.{group}"


def next_group(
    own: int, workers: Sequence[str], untouched: Callable[[], set[int]], scheduler: GroupScheduler
) -> int | None:
    """
    The group to read now: the task's own if possible, otherwise another one that no task has begun.

    A task that waited for a slow worker would occupy an Airflow slot that all other groups need.

    :param own: the number of the task's own group.
    :param workers: of each group of the plan, the worker that serves it first.
    :param untouched: finds the groups that no task has begun, as far as the staged runs show.
    :returns: a group that was begun; ``None`` when all have to wait.
    """
    if scheduler.begin(own, workers[own]):
        return own
    return next((number for number in sorted(untouched() - {own}) if scheduler.begin(number, workers[number])), None)
