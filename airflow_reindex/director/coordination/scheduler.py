"""Which group an extract task reads next: no worker gets too many connections, no task waits for a slow one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import MySQLdb

from airflow_reindex.director.mysql.client import Connection, execute, query
from airflow_reindex.director.mysql.locks import try_lock, unlock

#: Seconds after which the server hangs up on a task that says nothing, as one whose network is cut: a retry would wait
#: for its locks. Longer than a worker may be silent, as a task says nothing while it waits for one.
SILENT_SECONDS = 900
#: How often a task that reads says something.
STAY_SECONDS = 30.0


class Turns:
    """
    Named locks of the czar's server: one a group, and some a worker. They end with their connection.

    :param connection: the czar's server, used by nobody else.
    :param token: the plan.
    :param most: connections that a worker may be asked for at a time, by all builds that use the same czar.
    """

    def __init__(self, connection: Connection, token: str, most: int) -> None:
        self._connection, self._token, self._most = connection, token, most
        self._seat: tuple[str, str] | None = None
        self._said = time.monotonic()
        execute(connection, f"SET SESSION wait_timeout = {SILENT_SECONDS}")

    def stay(self) -> None:
        """Keep the locks: to be called more often than every ``SILENT_SECONDS``, as often as one likes."""
        if time.monotonic() - self._said < STAY_SECONDS:
            return
        self._said = time.monotonic()
        # Without its locks a task may read what another one reads, too: no reason to give up what it has read.
        with suppress(MySQLdb.Error):
            query(self._connection, "SELECT 1")

    def admit(self, worker: str) -> bool:
        """
        Ask for a connection to a worker; one that is held is given again. No connection to another one may be open.

        Who waited for one worker with a connection to another would, with somebody who does the reverse, wait for good.

        :param worker: the worker's name.
        :returns: whether it may be made now.
        """
        if self._seat is not None and self._seat[0] == worker:
            return True
        self._leave()
        mark = hashlib.sha256(worker.encode()).hexdigest()[:12]
        for seat in range(self._most):
            name = f"airflow_reindex.worker.{mark}.{seat}"
            if try_lock(self._connection, name):
                self._seat = worker, name
                return True
        return False

    def begin(self, group: int, worker: str) -> bool:
        """
        Begin to read a group.

        :param group: its number.
        :param worker: the worker that serves it first.
        :returns: false when another task reads it, or its worker has no connection to spare.
        """
        if not try_lock(self._connection, self._group(group)):
            return False
        if self.admit(worker):
            return True
        unlock(self._connection, self._group(group))
        return False

    def end(self, group: int) -> None:
        """
        The group was read, and no connection to a worker is open any more.

        :param group: its number.
        """
        self._leave()
        unlock(self._connection, self._group(group))

    def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            unlock(self._connection, seat[1])

    def _group(self, group: int) -> str:
        return f"airflow_reindex.{self._token}.group.{group}"


def next_group(own: int, workers: Sequence[str], untouched: Callable[[], set[int]], turns: Turns) -> int | None:
    """
    The group to read now: the task's own if possible, else another that nobody has begun.

    A task that stood in line for a slow worker would keep its place in Airflow from the groups of all others.

    :param own: the number of the task's own group.
    :param workers: of each group of the plan, the worker that serves it first.
    :param untouched: finds the groups that nobody has begun, as far as the staged runs tell.
    :param turns: begins a group.
    :returns: a group that was begun; ``None`` when all have to wait.
    """
    if turns.begin(own, workers[own]):
        return own
    return next((number for number in sorted(untouched() - {own}) if turns.begin(number, workers[number])), None)
