"""Rates and remaining time: estimated as a span between the overall and the recent rate."""

from __future__ import annotations

from dataclasses import dataclass

import pendulum


@dataclass(frozen=True, kw_only=True)
class Eta:
    """
    An estimate of the remaining time, in seconds from now.

    :param seconds: at the overall rate.
    :param low: the shorter estimate.
    :param high: the longer estimate.
    """

    seconds: float
    low: float
    high: float

    def __add__(self, other: Eta) -> Eta:
        """The estimate of both in sequence."""
        return Eta(seconds=self.seconds + other.seconds, low=self.low + other.low, high=self.high + other.high)


def estimate(left: float, overall: float, recent: float) -> Eta | None:
    """
    Estimate the remaining time; ``None`` as long as nothing is known.

    :param overall: units per second since the beginning.
    :param recent: units per second at the moment; 0 when unknown.
    """
    known = [left / rate for rate in (overall, recent) if rate > 0]
    return Eta(seconds=known[0], low=min(known), high=max(known)) if known else None


def seconds_between(begin: str, end: str) -> float:
    """Return the seconds between two ISO 8601 times, at least 0."""
    first, last = (pendulum.parse(text) for text in (begin, end))
    return max(0.0, float((last - first).total_seconds()))  # type: ignore[operator, union-attr]
