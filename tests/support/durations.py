"""How long each test file takes, so that the longest is begun first and no process works alone in the end."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Seconds by file, of set-up and tests; those not in it are short.
FILE = ROOT / "tests" / "durations.json"


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by the recorded seconds of their files; the others stay in their order."""
    seconds: dict[str, int] = json.loads(FILE.read_text())
    items.sort(key=lambda item: -seconds.get(file_of(item.nodeid), 0))


def file_of(nodeid: str) -> str:
    """A test's file."""
    return nodeid.partition("::")[0]


class Recorder:
    """Plugin that writes the file when the session ends; files that were not run keep what was recorded before."""

    def __init__(self) -> None:
        self._seconds = defaultdict[str, float](float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            self._seconds[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        known = {name: took for name, took in json.loads(FILE.read_text()).items() if (ROOT / name).exists()}
        merged = Counter({**known, **{name: round(took) for name, took in self._seconds.items()}})
        FILE.write_text(json.dumps({name: took for name, took in merged.most_common() if took}, indent=1) + "\n")
