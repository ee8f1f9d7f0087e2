"""A task's progress snapshot, a small file in its run's folder: what pages and the command line show while it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass

from airflow_reindex.core.staging import Folder

LIVE = "live"
#: The shortest time between two snapshots of a task, in seconds.
HEARTBEAT_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ProgressSnapshot:
    """
    A progress snapshot of a task.

    :param index: the map index, -1 for an unmapped task.
    :param token: the plan it works for; empty where the task's own record has it.
    :param started_at: when this attempt began, in seconds since the epoch.
    :param at: when the snapshot was written, in seconds since the epoch.
    :param what: the current piece of work.
    :param unit: what ``done`` and ``total`` count, within that piece.
    :param total: 0 when unknown.
    :param recent: units per second since the last snapshot.
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


class Heartbeat:
    """Writes a task's progress snapshots, at most one every :data:`HEARTBEAT_SECONDS`."""

    def __init__(self, folder: Folder, task: str, index: int, token: str) -> None:
        self._folder, self._task, self._index, self._token = folder, task, index, token
        self._started_at = time.time()
        self._last, self._what, self._done = time.monotonic(), "", 0

    def beat(self, what: str, unit: str, done: int, total: int, note: str) -> None:
        """Write a snapshot when one is due; the parameters are those of :class:`ProgressSnapshot`."""
        now = time.monotonic()
        spent = now - self._last
        if spent < HEARTBEAT_SECONDS:
            return
        before = self._done if what == self._what else 0
        self._last, self._what, self._done = now, what, done
        beat = ProgressSnapshot(
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
        # A snapshot that cannot be written is no reason for the work itself to fail.
        with suppress(Exception):
            self._folder.write_json(f"{LIVE}/{self._task}-{self._index}.json", asdict(beat))


_current: ContextVar[Heartbeat | None] = ContextVar("reindex_heartbeat", default=None)


def current() -> Heartbeat | None:
    """The :class:`Heartbeat` of the task that this code works for; ``None`` outside a task."""
    return _current.get()


@contextmanager
def with_heartbeat(heartbeat: Heartbeat) -> Iterator[None]:
    """Make a heartbeat the :func:`current` one within the block."""
    before = _current.set(heartbeat)
    try:
        yield
    finally:
        _current.reset(before)
