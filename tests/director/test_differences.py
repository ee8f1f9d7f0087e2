"""Two sets of rows, compared: against brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.director.audit.differences import MISSING, MOST_CHUNKS, NO_CHUNK, SURPLUS, WRONG, Differences
from airflow_reindex.director.audit.multiset_diff import MultisetDiff, Scope
from airflow_reindex.director.mysql.types import Rows
from tests.support.samples import Row, examples, rows_of

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 1)), max_size=14)
#: All chunks are judged.
EVERYWHERE = Scope(np.empty(0, np.int32), others=True)


def columns(rows: list[Row]) -> Rows:
    """Plain tuples as columns."""
    return rows_of([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def compare(source: list[Row], index: list[Row], scope: Scope = EVERYWHERE) -> Differences:
    """Both sides at once."""
    ledger = MultisetDiff(scope, 1_000)
    ledger.source(columns(sorted(source)))
    ledger.index(columns(sorted(index)))
    ledger.flush_below(None)
    return ledger.differences


def brute_force(source: list[Row], index: list[Row]) -> dict[str, int]:
    """What must be found."""
    lacking, extra = Counter(source) - Counter(index), Counter(index) - Counter(source)
    wrong = 0
    for key in {row[0] for row in lacking}:
        wrong += min(sum(n for row, n in side.items() if row[0] == key) for side in (lacking, extra))
    return {MISSING: lacking.total() - wrong, SURPLUS: extra.total() - wrong, WRONG: wrong}


@given(source=ROWS, index=ROWS, data=st.data())
@examples(300)
def test_counts_are_those_of_brute_force(source: list[Row], index: list[Row], data: st.DataObject) -> None:
    ledger = MultisetDiff(EVERYWHERE, data.draw(st.integers(1, 20), "capacity"))
    sides = [(ledger.source, sorted(source, key=lambda r: r[0])), (ledger.index, sorted(index, key=lambda r: r[0]))]
    reached = [-1, -1]
    while any(rows for _, rows in sides):
        which = data.draw(st.sampled_from([i for i in (0, 1) if sides[i][1]]), "side")
        add, rows = sides[which]
        size = data.draw(st.integers(1, len(rows)), "rows")
        add(columns(rows[:size]))
        reached[which] = rows[size - 1][0]
        sides[which] = add, rows[size:]
        if not sides[which][1]:
            reached[which] = 1_000
        if data.draw(st.booleans(), "settle"):
            ledger.flush_below(min(reached))
    ledger.flush_below(None)
    assert ledger.differences.totals() == brute_force(source, index)
    assert not len(ledger.keys(None))


def test_rows_of_other_chunks_are_no_surplus_but_tell_what_is_wrong() -> None:
    scope = Scope(np.array([5], np.int32), others=False)
    found = compare([(1, 5, 0)], [(1, 9, 0), (2, 9, 0)], scope)
    assert found.totals() == {MISSING: 0, SURPLUS: 0, WRONG: 1}


def test_differences_of_tasks_add_up() -> None:
    total = Differences()
    for keys in (range(4), range(10, 14)):
        total.merge(compare([(key, 7, 0) for key in keys], []).as_dict())
    assert total.messages() == {7: "8 row(s) missing in the index, such as 0, 1, 2, 3, 10"}


def test_a_broken_index_does_not_name_a_chunk_a_row() -> None:
    total = Differences()
    numbers = range(MOST_CHUNKS + 10)
    total.note(SURPLUS, rows_of(numbers, numbers, numbers), np.ones(len(numbers), np.int64))
    assert len(total.counts) == MOST_CHUNKS + 1
    assert total.counts[NO_CHUNK][SURPLUS][0] == 10


def test_a_key_with_all_rows_is_counted() -> None:
    ledger = MultisetDiff(EVERYWHERE, 100)
    for _ in range(50):
        ledger.source(columns([(7, 1, sub) for sub in range(40)]))
        assert len(ledger) <= 100
    for _ in range(49):
        ledger.index(columns([(7, 1, sub) for sub in range(41)]))
        assert len(ledger) <= 100
    ledger.flush_below(None)
    # 40 rows less, of which 40 have a partner among the 49 that are too many.
    assert ledger.differences.totals() == {MISSING: 0, SURPLUS: 9, WRONG: 40}
