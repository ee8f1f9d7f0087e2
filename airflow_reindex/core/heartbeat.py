"""How far a task is, in a small file of its run's folder: what pages and the command line show while it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass

from airflow_reindex.core.staging import Folder

LIVE = "live"
#: The shortest time between two writes of a task.
PULSE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Beat:
    """
    How far a task is.

    :param task: its task id.
    :param index: its map index, -1 for an unmapped task.
    :param token: the plan it works for; empty where the task's own record says it.
    :param started_at: when this try began, seconds since the epoch.
    :param at: when this was written, seconds since the epoch.
    :param what: the piece of work at hand.
    :param unit: what is counted.
    :param done: how many are done of that piece.
    :param total: how many it has; 0 when unknown.
    :param recent: how many a second since the last beat.
    :param note: a few words more.
    """

    task: str
    index: int
    token: str
    started_at: float
    at: float
    what: str
    unit: str
    done: int
    total: int
    recent: float
    note: str = ""


class Pulse:
    """
    Writes a task's beats, no more often than every :data:`PULSE_SECONDS`.

    :param folder: the run's folder.
    :param task: the task's id.
    :param index: its map index.
    :param token: the plan it works for.
    """

    def __init__(self, folder: Folder, task: str, index: int, token: str) -> None:
        self._folder, self._task, self._index, self._token = folder, task, index, token
        self._started_at = time.time()
        self._last, self._what, self._done = time.monotonic(), "", 0

    def beat(self, what: str, unit: str, done: int, total: int, note: str) -> None:
        """
        Say how far the task is, when it is time to.

        :param what: the piece of work at hand.
        :param unit: what is counted.
        :param done: how many are done of it.
        :param total: how many it has; 0 when unknown.
        :param note: a few words more.
        """
        now = time.monotonic()
        spent = now - self._last
        if spent < PULSE_SECONDS:
            return
        before = self._done if what == self._what else 0
        self._last, self._what, self._done = now, what, done
        beat = Beat(
            task=self._task,
            index=self._index,
            token=self._token,
            started_at=self._started_at,
            at=time.time(),
            what=what,
            unit=unit,
            done=done,
            total=total,
            recent=max(0, done - before) / spent,
            note=note,
        )
        # Whatever keeps it from being written is no reason for the work itself to end.
        with suppress(Exception):
            self._folder.write_json(f"{LIVE}/{self._task}-{self._index}.json", asdict(beat))


_current: ContextVar[Pulse | None] = ContextVar("reindex_pulse", default=None)


def current() -> Pulse | None:
    """The pulse of the task that this code works for."""
    return _current.get()


@contextmanager
def pulsing(pulse: Pulse) -> Iterator[None]:
    """
    Make a pulse the one of all work within.

    :param pulse: the task's pulse.
    """
    before = _current.set(pulse)
    try:
        yield
    finally:
        _current.reset(before)
