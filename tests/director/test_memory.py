"""A task's memory is bounded by its setting, not by its chunks or keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.director.memory_probe import BATCH, WINDOW_ROWS

pytestmark = pytest.mark.system

MEMORY_MIB = 512
#: What a task of a real deployment was seen to take more than the probe with the same rows.
AIRFLOW_MIB = 32
#: Twice what an extract task holds; more than what a load task holds.
ROWS = 12_500_000


def measure(folder: Path, kind: str, rows: int = ROWS, capacity: int = ROWS, first: int = ROWS) -> int:
    """Stage and merge rows; the peak of the whole process in MiB, as it would be in a task."""
    command = [sys.executable, "-m", "tests.director.memory_probe", str(folder), kind]
    command += [str(number) for number in (rows, capacity, first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    before, staged, peak, files, found = map(int, done.stdout.split()[-5:])
    print(f"{kind}, {rows:,} rows in {files} files: {before >> 10} MiB, {staged >> 10} staged, {peak >> 10} loaded")
    assert found == rows
    assert (peak >> 10) + AIRFLOW_MIB < MEMORY_MIB
    return peak >> 10


@pytest.mark.parametrize("kind", ["narrow", "sequential"])
def test_whatever_the_keys_are(tmp_path: Path, kind: str) -> None:
    measure(tmp_path, kind)


def test_twice_the_rows_take_no_more(tmp_path: Path) -> None:
    one, two = (measure(tmp_path / str(rows), "random", rows, first=rows) for rows in (ROWS, 2 * ROWS))
    assert abs(two - one) < 40


@pytest.mark.parametrize("rows", [WINDOW_ROWS // BATCH * BATCH, ROWS], ids=["just fits", "does not fit"])
def test_one_key_in_all_rows(tmp_path: Path, rows: int) -> None:
    measure(tmp_path, "one", rows, first=rows)


def test_one_chunk_with_half_of_the_rows(tmp_path: Path) -> None:
    measure(tmp_path, "random", first=ROWS // 2)


def test_many_small_runs(tmp_path: Path) -> None:
    measure(tmp_path, "random", capacity=ROWS // 300, first=1)
