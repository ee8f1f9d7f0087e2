"""Two sets of rows, compared: against brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from airflow_reindex.director.audit.differences import MISSING, SURPLUS, WRONG, Differences, compare
from airflow_reindex.director.columns import Rows
from tests.core.samples import Row, examples, rows_of

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 1)), max_size=14)


def columns(rows: list[Row]) -> Rows:
    """Plain tuples as columns."""
    return rows_of([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def everywhere(chunks: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """All chunks are judged."""
    return np.ones(len(chunks), bool)


@given(source=ROWS, index=ROWS)
@examples(300)
def test_counts_are_those_of_brute_force(source: list[Row], index: list[Row]) -> None:
    lacking, extra = Counter(source) - Counter(index), Counter(index) - Counter(source)
    wrong = 0
    for key in {row[0] for row in lacking}:
        wrong += min(sum(n for row, n in side.items() if row[0] == key) for side in (lacking, extra))
    found = compare(columns(source), columns(index), everywhere).totals()
    assert found == {MISSING: lacking.total() - wrong, SURPLUS: extra.total() - wrong, WRONG: wrong}


def test_rows_of_other_chunks_are_no_surplus_but_tell_what_is_wrong() -> None:
    found = compare(columns([(1, 5, 0)]), columns([(1, 9, 0), (2, 9, 0)]), lambda chunks: np.isin(chunks, [5]))
    assert found.totals() == {MISSING: 0, SURPLUS: 0, WRONG: 1}


def test_differences_of_tasks_add_up() -> None:
    total = Differences()
    for keys in (range(4), range(10, 14)):
        one = compare(columns([(key, 7, 0) for key in keys]), columns([]), everywhere)
        total.merge(one.as_dict())
    assert total.messages() == {7: "8 row(s) missing in the index, such as 0, 1, 2, 3, 10"}
