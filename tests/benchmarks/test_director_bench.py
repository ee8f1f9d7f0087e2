"""The benchmark of the director index measures what it says, at a toy's size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.director.__main__ import measure, quick
from benchmarks.director.measure import Measured
from benchmarks.director.report import bars
from benchmarks.director.scenarios import Bench

pytestmark = pytest.mark.server


def test_all_scenarios_in_one_go(tmp_path: Path) -> None:
    said: list[str] = []
    bench, out = Bench(tmp_path / "bench", said.append, 1), tmp_path / "out"
    growth = {"growth": lambda: bench.growth("16M", (1_000, 5_000), 10, 1)}
    measure(bench, {**quick(bench, 5_000, seconds=0.3), **growth}, out)
    assert bench.results.errors == {}
    builds = bench.results.builds
    assert list(builds) == [
        *("quick", "fits in memory", "small", "1 % changed", "staged on disk", "staged on S3"),
        *("growth 1,000", "growth 5,000"),
    ]
    assert [m.side for m in builds["quick"]] == ["qserv", "project", "ceiling"]
    assert list(builds["quick"][1].steps) == ["plan", "extract", "split", "load", "verify and swap"]
    assert all(m.seconds > 0 and m.rows in (1_000, 5_000, 10_000) for runs in builds.values() for m in runs)
    assert all(m.staged_bytes and m.index_bytes and m.task_bytes for m in builds["1 % changed"])
    assert {(found.keys, found.side) for found in bench.results.lookups} == {
        (keys, side) for keys in (1, 10, 100, 1000) for side in ("qserv", "project")
    }
    assert len(bench.results.readers) == 2
    assert set(bench.results.other) == {"staging", "airflow"}
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "Qserv's protocol" in (out / "results.txt").read_text()
    assert set(json.loads((out / "results.json").read_text())) >= {"builds", "lookups", "readers", "errors"}
    assert len(list(bars(bench.results))) == 9


def test_a_scenario_that_fails_fails_alone(tmp_path: Path) -> None:
    said: list[str] = []
    bench, out = Bench(tmp_path / "bench", said.append, 1), tmp_path / "out"
    written: list[dict[str, object]] = []

    def fail() -> None:
        bench.folder.mkdir()
        bench.results.builds["begun"] = [Measured("project", 10, 1, seconds=1.0)]
        raise RuntimeError("no [bold]server[/bold]")

    def work() -> None:
        assert not bench.folder.exists(), "what a failed scenario has left is no concern of the next one"
        written.append(json.loads((out / "results.json").read_text()))
        bench.results.builds["done"] = [Measured("project", 10, 1, seconds=1.0)]

    measure(bench, {"fails": fail, "works": work}, out)
    assert list(written[0]["builds"]) == ["begun"], "results are written as they come"  # type: ignore[call-overload]
    found = json.loads((out / "results.json").read_text())
    assert list(found["builds"]) == ["begun", "done"]
    assert list(found["errors"]) == ["fails"]
    assert found["errors"]["fails"].endswith("RuntimeError: no [bold]server[/bold]\n")
    assert "RuntimeError: no [bold]server[/bold]" in (out / "results.txt").read_text()
    assert "fails: FAILED" in said[0]
    assert said[0].endswith("RuntimeError: no [bold]server[/bold]")
