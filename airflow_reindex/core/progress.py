"""Progress of long work, for the task log and the progress snapshot: rows, rate and remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_reindex.core import heartbeat


def duration(seconds: float) -> str:
    """A time span for people, such as ``0.8 s``, ``45 s``, ``3 min 20 s`` or ``5 h 07 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """
    Logs the progress of long work, at most once every few seconds.

    :param say: takes one line of text (a logger's method).
    :param what: what is being done; each line begins with it.
    :param total: the expected number of units; 0 when unknown, then no ETA is given.
    :param every: the shortest time between two lines, in seconds.
    :param unit: what is counted.
    """

    def __init__(
        self, say: Callable[[str], object], what: str, total: int, *, every: float = 5.0, unit: str = "rows"
    ) -> None:
        self._unit = unit
        self._say, self._what, self._total, self._every = say, what, total, every
        self._started = self._said = time.monotonic()
        self.rows = 0
        self._heartbeat = heartbeat.current()

    def add(self, rows: int, note: str = "") -> None:
        """
        Count finished rows, and log when a line is due.

        :param note: a few words on the current piece.
        """
        self.rows += rows
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self._say(self._line(now, note))
        if self._heartbeat is not None:
            self._heartbeat.beat(self._what, self._unit, self.rows, self._total, note)

    def finish(self, note: str = "") -> None:
        """Log the final figures, with a few words on the outcome."""
        self._say(self._line(time.monotonic(), note, final=True))

    def _line(self, now: float, note: str, *, final: bool = False) -> str:
        spent = max(now - self._started, 1e-6)
        rate = self.rows / spent
        line = f"{self._what}: {self.rows:,} {self._unit} in {duration(spent)}, {rate:,.0f} {self._unit}/s"
        if not final and self._total and rate:
            left = max(self._total - self.rows, 0)
            line += f", {min(100.0, 100 * self.rows / self._total):.0f} %, ETA {duration(left / rate)}"
        return f"{line}; {note}" if note else line
