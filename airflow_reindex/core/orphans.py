"""Orphans: what runs that died have left behind, and what to do about each; one shape for both jobs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OrphanState(StrEnum):
    """The state of something that a run has made besides its result."""

    AT_WORK = "at work"
    #: The run died or failed: its work can be resumed, or abandoned for good.
    ABANDONED = "abandoned"
    #: Of no use to any run: `repair` removes it.
    ORPHANED = "orphaned"
    #: Kept on purpose.
    KEPT = "kept"


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """
    Something that a run has made and not removed.

    :param kind: ``claim``, ``shadow table``, ``staged run``, ``collection``, ...
    :param name: its name on its server or in its folder.
    :param target: the index or collection that it belongs to; empty when unknown.
    :param owner: the run that made it, as far as known.
    :param silent: seconds since the last heartbeat; negative when there is none.
    :param advice: what to do: a command, or a sentence with one.
    """

    kind: str
    name: str
    target: str
    condition: OrphanState
    owner: str
    advice: str
    silent: float = -1.0

    @property
    def wrong(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.condition in (OrphanState.ABANDONED, OrphanState.ORPHANED)
