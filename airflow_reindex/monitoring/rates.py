"""Rates and what is left: an estimate is a span, from how fast the work was in all and how fast it is now."""

from __future__ import annotations

from dataclasses import dataclass

import pendulum


@dataclass(frozen=True, kw_only=True)
class Eta:
    """
    When work will have ended.

    :param seconds: from now, as it goes in all.
    :param low: the shorter one of the estimates.
    :param high: the longer one.
    """

    seconds: float
    low: float
    high: float

    def __add__(self, other: Eta) -> Eta:
        """One after the other."""
        return Eta(seconds=self.seconds + other.seconds, low=self.low + other.low, high=self.high + other.high)


def estimate(left: float, overall: float, recent: float) -> Eta | None:
    """
    Estimate how long work will take.

    :param left: how much is left.
    :param overall: how many a second since the beginning.
    :param recent: how many a second at the moment; 0 when unknown.
    :returns: the span; ``None`` as long as nothing is known.
    """
    known = [left / rate for rate in (overall, recent) if rate > 0]
    return Eta(seconds=known[0], low=min(known), high=max(known)) if known else None


def seconds_between(begin: str, end: str) -> float:
    """
    The time between two moments.

    :param begin: ISO 8601.
    :param end: ISO 8601.
    :returns: seconds, from 0.
    """
    first, last = (pendulum.parse(text) for text in (begin, end))
    return max(0.0, float((last - first).total_seconds()))  # type: ignore[operator, union-attr]
