"""A task's memory is bounded by its settings, not by its chunk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROWS = 9_000_000


def test_a_large_chunk_does_not_need_more_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.director.memory_probe", str(tmp_path), str(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    megabytes, rows = map(int, done.stdout.split()[-2:])
    assert rows == ROWS
    assert megabytes < 400, "above an empty task"
