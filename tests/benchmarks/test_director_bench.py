"""The benchmark of the director index measures what it says, at a toy's size."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from benchmarks.director import report
from benchmarks.director.scenarios import Bench


def test_all_sides_are_measured_and_written_down(tmp_path: Path) -> None:
    said: list[str] = []
    bench = Bench(tmp_path / "bench", said.append, 1)
    bench.compare("200 chunks", "16M", 5_000, 10, sides=("qserv", "project", "ceiling"), lookups=True)
    bench.changed("16M", 5_000, 10)
    bench.growth("16M", (1_000, 5_000), 10, 1)
    builds = bench.results.builds
    assert [m.side for m in builds["200 chunks"]] == ["qserv", "project", "ceiling"]
    assert list(builds["200 chunks"][1].steps) == ["plan", "extract", "split", "load", "verify and swap"]
    assert all(m.seconds > 0 and m.rows in (1_000, 5_000) for runs in builds.values() for m in runs)
    assert list(builds)[2:] == ["growth 1,000", "growth 5,000"]
    assert all(m.staged_bytes and m.index_bytes and m.task_bytes for m in builds["1 % changed"])
    assert {(found.keys, found.side) for found in bench.results.lookups} == {
        (keys, side) for keys in (1, 10, 100, 1000) for side in ("qserv", "project")
    }
    console = Console(quiet=True)
    report.write(bench.results, tmp_path / "out", console)
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "Qserv's protocol" in (tmp_path / "out" / "results.txt").read_text()
    assert set(json.loads((tmp_path / "out" / "results.json").read_text())) >= {"builds", "lookups", "readers"}
    assert len(list(report.bars(bench.results))) == 7
