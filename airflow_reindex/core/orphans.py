"""What runs that died have left behind, and what to do about each: one shape for both jobs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Condition(StrEnum):
    """How it is with something that a run has made besides its result."""

    AT_WORK = "at work"
    #: A run died or failed: what it made can be resumed, or given up.
    ABANDONED = "abandoned"
    #: Nobody can use it any more: `repair` removes it.
    ORPHANED = "orphaned"
    #: Kept on purpose.
    KEPT = "kept"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """
    One thing that was found.

    :param kind: what it is: ``claim``, ``shadow table``, ``staged run``, ``collection``, ...
    :param name: its name, where it is.
    :param target: the index or collection that it belongs to; empty when that cannot be told.
    :param condition: how it is with it.
    :param owner: whose run made it, as far as can be told.
    :param silent: seconds since the last sign of life; negative when there is none.
    :param advice: what to do: a command, or a sentence with one.
    """

    kind: str
    name: str
    target: str
    condition: Condition
    owner: str
    advice: str
    silent: float = -1.0

    @property
    def wrong(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.condition in (Condition.ABANDONED, Condition.ORPHANED)
