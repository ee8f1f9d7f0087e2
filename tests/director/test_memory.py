"""A task's memory is bounded by its setting, not by its chunks or keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MEMORY_MB = 512


@pytest.mark.parametrize(
    ("kind", "rows", "runs"),
    [("random", 50_000_000, 1), ("random", 25_000_000, 1), ("narrow", 20_000_000, 1), ("sequential", 20_000_000, 1),
     ("random", 20_000_000, 300)],
)  # fmt: skip
def test_whatever_there_is_to_sort(tmp_path: Path, kind: str, rows: int, runs: int) -> None:
    command = [sys.executable, "-m", "tests.director.memory_probe", str(tmp_path), kind, str(rows), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    megabytes, files, found = map(int, done.stdout.split()[-3:])
    print(f"{kind} keys, {rows:,} rows in {files} files: {megabytes} MB")
    assert found == rows
    assert megabytes < MEMORY_MB, "the whole process"
