"""Progress: time spans for people, and lines that come not too often."""

from __future__ import annotations

import time

import pytest

from airflow_reindex.core.progress import Progress, duration


class Clock:
    """A clock that stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that Progress looks at."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.4, "0.4 s"),
        (8.2, "8.2 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (18425, "5 h 07 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_come_no_more_often_than_asked(clock: Clock) -> None:
    lines: list[str] = []
    progress = Progress(lines.append, "load", 0, every=5)
    for step in range(100):
        clock.now = 1000 + step / 10
        progress.add(1)
    assert len(lines) == 1
    clock.now = 1010.0
    progress.add(1)
    assert len(lines) == 2
    assert progress.rows == 101


@pytest.mark.parametrize(
    ("total", "rows", "line"),
    [
        (10_000, 2_500, "load: 2,500 rows in 10 s, 250 rows/s, 25 %, ETA 30 s; chunk 3 of 9"),
        (100, 500, "load: 500 rows in 10 s, 50 rows/s, 100 %, ETA 0.0 s; chunk 3 of 9"),
        (0, 500, "load: 500 rows in 10 s, 50 rows/s; chunk 3 of 9"),
        (100, 0, "load: 0 rows in 10 s, 0 rows/s; chunk 3 of 9"),
    ],
    ids=["less than expected", "more than expected", "unknown", "not begun"],
)
def test_a_line_has_the_rate_and_the_time_left_where_it_is_known(
    clock: Clock, total: int, rows: int, line: str
) -> None:
    lines: list[str] = []
    progress = Progress(lines.append, "load", total)
    clock.now += 10
    progress.add(rows, "chunk 3 of 9")
    assert lines == [line]


def test_the_last_line_comes_always(clock: Clock) -> None:
    lines: list[str] = []
    progress = Progress(lines.append, "load", 1_000)
    progress.add(1_000)
    assert lines == []
    clock.now += 2
    progress.finish("done")
    assert lines == ["load: 1,000 rows in 2.0 s, 500 rows/s; done"]


def test_no_time_at_all_is_no_division_by_zero(clock: Clock) -> None:
    lines: list[str] = []
    Progress(lines.append, "load", 0).finish()
    assert lines == ["load: 0 rows in 0.0 s, 0 rows/s"]
