"""The speed of a build: limits that can change while it runs, and the checks of a working task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from airflow_reindex.core.claims import Keeper
from airflow_reindex.director.model.limits import MAX_CONNECTIONS, Limits
from airflow_reindex.director.mysql.client import Connection
from airflow_reindex.director.mysql.locks import LockSemaphore

#: Seconds of one throttled piece of work: readers notice long bursts.
BLOCK_SECONDS = 0.002
LEAST_BLOCK_ROWS = 500
#: Seconds between two checks of a waiting task.
LOOK_SECONDS = 0.25


class Watch:
    """What a working task checks: its claim, unless ``keeper`` is ``None``, and the build's limits."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        self._keeper = keeper
        self._beside: Callable[[], None] = lambda: None
        self.limits, self._share = Limits(), 0.0

    def set(self, limits: Limits, working: int) -> None:
        """Apply the build's limits, of which each working task gets an equal share."""
        self.limits, self._share = limits, limits.rows_per_second / max(1, working)

    @property
    def block_rows(self) -> int:
        """Rows to load at a time; 0 for any number."""
        return max(LEAST_BLOCK_ROWS, int(self._share * BLOCK_SECONDS)) if self._share else 0

    @property
    def share(self) -> float:
        """Rows per second of this task; 0 for any number."""
        return self._share

    def beside(self, action: Callable[[], None]) -> None:
        """Also call ``action``, which must be cheap, whenever :meth:`check` is called; there is one action."""
        self._beside = action

    def check(self) -> None:
        """
        Stop the work when the claim is gone.

        :raises ClaimLostError: when another run has taken over.
        """
        if self._keeper is not None:
            self._keeper.check()
        self._beside()

    def wait(self, seconds: float) -> None:
        """
        Wait; the loss of the claim, or an exception that a signal handler raises, ends it at once.

        :raises ClaimLostError: when another run has taken over.
        """
        if self._keeper is not None:
            self._keeper.wait(seconds)
        else:
            time.sleep(seconds)


class Pace:
    """Keeps one connection's work to its share of the limit, which may change at any time."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._owed, self._last = watch, 0.0, time.monotonic()

    def add(self, rows: int, patience: float = math.inf) -> None:
        """
        Count finished rows, and wait while they exceed the rate.

        :param patience: the longest wait in seconds; what is left is added to the next call's wait.
        :raises ClaimLostError: when another run has taken over.
        """
        self._owed += rows
        end = time.monotonic() + patience
        while (ahead := min(self._ahead(), end - time.monotonic())) > 0:
            self._watch.check()
            self._watch.wait(min(LOOK_SECONDS, ahead))

    def _ahead(self) -> float:
        """Seconds to wait now for the rows done so far. Unused time is not saved up."""
        now = time.monotonic()
        # Another thread may change it at any time.
        share = self._watch.share
        self._owed = max(0.0, self._owed - (now - self._last) * share) if share else 0.0
        self._last = now
        return self._owed / share if share else 0.0


class ConnectionSlots(LockSemaphore):
    """The slots of the connections that work at a build. Without a limit, a connection may work even without a slot."""

    def __init__(self, connection: Connection, mark: str) -> None:
        super().__init__(connection, f"airflow_reindex.{mark}.slot", MAX_CONNECTIONS)

    def acquire(self, limit: int | None = None) -> bool:
        """Acquire one of ``limit`` slots (0: no limit), or keep the one held; returns whether it may work."""
        return super().acquire(limit or None) or not limit
