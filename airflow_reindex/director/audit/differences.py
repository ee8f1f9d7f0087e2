"""What is wrong with an index: rows that it lacks, has too many, or has for another chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_reindex.director.columns import Rows

#: How many keys a message quotes of each kind.
QUOTED_KEYS = 5
#: In a chunk table, but not in the index.
MISSING = "missing"
#: In the index, but not in the chunk table that it names.
SURPLUS = "surplus"
#: In both, but with another chunk or sub-chunk.
WRONG = "wrong"
TEXTS = {
    MISSING: "row(s) missing in the index",
    SURPLUS: "row(s) of the index are not in the chunk table",
    WRONG: "row(s) have another chunk or sub-chunk in the index",
}


@dataclass
class Differences:
    """
    Differences, by chunk and kind.

    :param counts: ``{chunk: {kind: [how many, some keys]}}``.
    """

    counts: dict[int, dict[str, tuple[int, list[int]]]] = field(default_factory=dict)

    def note(self, kind: str, rows: Rows) -> None:
        """
        Take note of rows.

        :param kind: what is wrong with them.
        :param rows: the rows; each is charged to its chunk.
        """
        order = np.argsort(rows.chunk, kind="stable")
        chunks, first, counts = np.unique(rows.chunk[order], return_index=True, return_counts=True)
        for chunk, start, count in zip(chunks.tolist(), first.tolist(), counts.tolist(), strict=True):
            keys = rows.key[order[start : start + min(count, QUOTED_KEYS)]].tolist()
            self._add(chunk, kind, count, keys)

    def merge(self, value: Mapping[str, Mapping[str, tuple[int, list[int]]]]) -> None:
        """
        Add what another task has found.

        :param value: from :meth:`as_dict`.
        """
        for chunk, kinds in value.items():
            for kind, (count, keys) in kinds.items():
                self._add(int(chunk), kind, count, keys)

    def as_dict(self) -> dict[str, Any]:
        """
        The differences as JSON can hold them.

        :returns: a dict of plain types.
        """
        return {
            str(chunk): {kind: list(found) for kind, found in kinds.items()} for chunk, kinds in self.counts.items()
        }

    def totals(self) -> dict[str, int]:
        """
        How many rows are wrong, in all.

        :returns: by kind.
        """
        return {
            kind: sum(kinds[kind][0] for kinds in self.counts.values() if kind in kinds)
            for kind in (MISSING, SURPLUS, WRONG)
        }

    def messages(self) -> dict[int, str]:
        """
        What to say of each chunk.

        :returns: by chunk.
        """
        return {chunk: "; ".join(_texts(kinds)) for chunk, kinds in sorted(self.counts.items())}

    def _add(self, chunk: int, kind: str, count: int, keys: list[int]) -> None:
        known, sample = self.counts.setdefault(chunk, {}).get(kind, (0, []))
        self.counts[chunk][kind] = (known + count, (sample + keys)[:QUOTED_KEYS])


def _texts(kinds: Mapping[str, tuple[int, list[int]]]) -> Iterable[str]:
    for kind, text in TEXTS.items():
        if kind in kinds:
            count, keys = kinds[kind]
            yield f"{count} {text}, such as {', '.join(map(str, keys))}"


def compare(source: Rows, index: Rows, judged: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]) -> Differences:
    """
    Compare all rows of a key window: what the chunk tables have, and what the index has.

    :param source: rows of the chunk tables, in any order; equal rows may repeat.
    :param index: rows of the index, in any order.
    :param judged: says which chunks' rows of the index must be in ``source``; others are no surplus, but tell that a
        missing row is there with a wrong chunk.
    :returns: the differences. A row that is missing while its key is there with something else is wrong, once.
    """
    result = Differences()
    missing, surplus = _unequal(source, index)
    # A key that is there with other values: pair them up, the rest is missing or surplus.
    missing_is_wrong, surplus_is_wrong = _pair(missing.key, surplus.key)
    for kind, rows in ((WRONG, missing.take(missing_is_wrong)), (MISSING, missing.take(~missing_is_wrong))):
        if len(rows):
            result.note(kind, rows)
    rest = surplus.take(~surplus_is_wrong)
    rest = rest.take(judged(rest.chunk))
    if len(rest):
        result.note(SURPLUS, rest)
    return result


def _unequal(one: Rows, other: Rows) -> tuple[Rows, Rows]:
    """Rows that occur more often on one side than on the other, each so many times."""
    key, chunk = np.concatenate([one.key, other.key]), np.concatenate([one.chunk, other.chunk])
    sub_chunk = np.concatenate([one.sub_chunk, other.sub_chunk])
    order = np.lexsort((sub_chunk, chunk, key))
    same = np.zeros(len(order), bool)
    same[1:] = (
        (key[order][1:] == key[order][:-1])
        & (chunk[order][1:] == chunk[order][:-1])
        & (sub_chunk[order][1:] == sub_chunk[order][:-1])
    )
    starts = np.flatnonzero(~same)
    if not len(starts):
        return one, other
    sign = np.where(order < len(one), 1, -1)
    balance = np.add.reduceat(sign, starts)
    everything = Rows(key, chunk, sub_chunk)
    first = order[starts]
    more, fewer = np.flatnonzero(balance > 0), np.flatnonzero(balance < 0)
    return (
        everything.take(np.repeat(first[more], balance[more])),
        everything.take(np.repeat(first[fewer], -balance[fewer])),
    )


def _pair(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which keys of each side have a partner on the other one, the first so many of each key."""
    result = []
    for mine, theirs in ((one, other), (other, one)):
        keys, counts = np.unique(theirs, return_counts=True)
        if not len(keys):
            result.append(np.zeros(len(mine), bool))
            continue
        order = np.argsort(mine, kind="stable")
        ordered = mine[order]
        # The place of each row among those of its key.
        new = np.ones(len(ordered), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        place = np.arange(len(ordered)) - np.maximum.accumulate(np.where(new, np.arange(len(ordered)), 0))
        at = np.minimum(np.searchsorted(keys, ordered), len(keys) - 1)
        paired = (keys[at] == ordered) & (place < counts[at])
        back = np.empty(len(mine), bool)
        back[order] = paired
        result.append(back)
    return result[0], result[1]
