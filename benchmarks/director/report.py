"""One table, one picture, and the figures as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.director.measure import Measured
from benchmarks.director.scenarios import Results

mpl.use("Agg")
NAMES = {"qserv": "(a) Qserv's protocol", "project": "(b) this project", "ceiling": "(c) sorted files, loaded only"}


def write(results: Results, folder: Path) -> None:
    """
    Write down what is known so far.

    :param results: what was measured.
    :param folder: where ``results.json``, ``results.txt`` and ``results.png`` go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(asdict(results), indent=1))
    with (folder / "results.txt").open("w") as file:
        show(results, Console(file=file, width=170))
    picture(results, folder / "results.png")


def show(results: Results, console: Console) -> None:
    """
    Print the tables.

    :param results: what was measured.
    :param console: where to print.
    """
    for table in tables(results):
        console.print(table)


def tables(results: Results) -> Iterator[Table]:
    """
    The tables.

    :param results: what was measured.
    :yields: each.
    """
    yield _builds(results)
    yield _chart(results)
    if results.lookups or results.readers:
        yield _latencies(results)
    yield _bars(results)
    if results.errors:
        yield _errors(results)


def _builds(results: Results) -> Table:
    table = Table("scenario", "side", title="builds (median runs)")
    for name in ("rows", "s", "rows/s", "us/row", "client", "server", "written", "on disk", "staged", "task MB"):
        table.add_column(name, justify="right")
    for scenario, runs in results.builds.items():
        for side in dict.fromkeys(m.side for m in runs):
            m = results.side(scenario, side)
            assert m is not None
            size = f"{m.a_row(m.index_bytes):.1f}" if m.index_bytes else ""
            staged = f"{m.a_row(m.staged_bytes):.1f}" if m.staged_bytes else ""
            table.add_row(
                scenario, NAMES.get(side, side), f"{m.rows:,}", f"{m.seconds:.2f}", f"{m.rate:,.0f}",
                f"{1e6 * m.a_row(m.seconds):.2f}", f"{1e6 * m.a_row(m.client_cpu):.2f}",
                f"{1e6 * m.a_row(m.server_cpu):.2f}", f"{m.a_row(m.written):.0f}", size, staged,
                f"{m.task_bytes / 1e6:.0f}" if m.task_bytes else "",
            )  # fmt: skip
    table.caption = "client and server: us of processor time a row; written, on disk, staged: bytes a row"
    return table


def _chart(results: Results) -> Table:
    """The picture as text: a bar a build, on a logarithmic scale from ten thousand rows a second."""
    table = Table("scenario", "side", "rows a second (a sign is a tenth of a power of ten)", title="rates")
    for scenario, runs in results.builds.items():
        for side in dict.fromkeys(m.side for m in runs):
            found = results.side(scenario, side)
            assert found is not None
            length = max(1, round(10 * math.log10(max(found.rate, 10_001) / 10_000)))
            table.add_row(scenario, NAMES.get(side, side), f"{'█' * length} {found.rate:,.0f}")
    return table


def _latencies(results: Results) -> Table:
    table = Table("look-ups", "table or state", title="readers")
    for name in ("n", "median us", "p99 us"):
        table.add_column(name, justify="right")
    for found in (*results.lookups, *results.readers):
        what = "=" if found.keys == 1 else f"IN ({found.keys})"
        table.add_row(what, found.side, f"{found.count}", f"{1e6 * found.median:.0f}", f"{1e6 * found.p99:.0f}")
    return table


def _bars(results: Results) -> Table:
    table = Table("bar", title="bars")
    for name in ("wanted", "measured", ""):
        table.add_column(name, justify="right")
    for what, wanted, value, good in bars(results):
        table.add_row(what, wanted, f"{value:.2f}", "[green]met" if good else "[red]missed")
    return table


def _errors(results: Results) -> Table:
    table = Table("scenario", "error", title="failed")
    for name, trace in results.errors.items():
        # Text, not markup: it is somebody else's.
        table.add_row(name, Text(trace.rstrip().rsplit("\n", 1)[-1]))
    return table


def bars(results: Results) -> Iterator[tuple[str, str, float, bool]]:
    """
    What was promised, and what was measured.

    :param results: what was measured.
    :yields: the promise, its bound, the value, whether it is kept.
    """

    def ratio(scenario: str, one: str, other: str) -> float | None:
        left, right = results.side(scenario, one), results.side(scenario, other)
        return right.seconds / left.seconds if left and right else None

    wanted = [
        ("200 chunks", "qserv", 5.0), ("2,000 chunks", "qserv", 12.0), ("200 chunks", "ceiling", 0.65),
        ("fits in memory", "qserv", 1.0), ("small", "qserv", 1.0),
    ]  # fmt: skip
    for scenario, other, least in wanted:
        value = ratio(scenario, "project", other)
        if value is not None:
            yield f"{scenario}: times as fast as {NAMES[other]}", f">= {least}", value, value >= least
    sizes = sorted((runs[0].rows, name) for name, runs in results.builds.items() if name.startswith("size"))
    grown = [name for name in results.builds if name.startswith("growth")]
    if len(grown) > 1:
        first, last = (results.side(name, "project") for name in (grown[0], grown[-1]))
        assert first is not None
        assert last is not None
        growth = last.a_row(last.seconds) / first.a_row(first.seconds)
        yield f"cost of a row, {first.rows:,} to {last.rows:,} rows", "< 1.15", growth, growth < 1.15
    if sizes:
        ratios = [value for _, name in sizes if (value := ratio(name, "project", "qserv")) is not None]
        if len(ratios) > 1:
            yield (
                "the ratio to (a) grows with size: last to first",
                "> 1",
                ratios[-1] / ratios[0],
                ratios[-1] > ratios[0],
            )
    for keys in dict.fromkeys(found.keys for found in results.lookups):
        side = {found.side: found.median for found in results.lookups if found.keys == keys}
        value = side["project"] / side["qserv"]
        yield f"look-up of {keys} keys, time to (a)'s", "<= 1", value, value <= 1
    for rest, beside in zip(results.readers[::2], results.readers[1::2], strict=True):
        value = beside.p99 / rest.p99
        yield f"p99 of readers, {beside.side}", "<= 2", value, value <= 2
    if airflow := results.other.get("airflow"):
        value = airflow["share"]
        yield "Airflow's own seconds", f"<= {airflow['allowed']:.1f}", value, value <= airflow["allowed"]


def picture(results: Results, path: Path) -> None:
    """
    Draw the rates against the size, and where the time goes.

    :param results: what was measured.
    :param path: the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _rates(left, results)
    _steps(right, results)
    figure.savefig(path, dpi=120)


def _rates(axes: Any, results: Results) -> None:
    points: dict[str, list[Measured]] = {}
    for scenario, runs in results.builds.items():
        if scenario.startswith(("size", "200", "quick")):
            for side in dict.fromkeys(m.side for m in runs):
                found = results.side(scenario, side)
                points.setdefault(side, []).extend([found] if found else [])
    for side, line in points.items():
        line.sort(key=lambda m: m.rows)
        axes.plot([m.rows / 1e6 for m in line], [m.rate for m in line], "o-", label=NAMES.get(side, side))
    axes.set(xlabel="million rows", ylabel="rows a second", yscale="log", title="rate against size")
    axes.set_ylim(bottom=1e4)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


def _steps(axes: Any, results: Results) -> None:
    shown = [(name, m) for name in results.builds if name != "small" and (m := results.side(name, "project"))]
    base = [0.0] * len(shown)
    for step in dict.fromkeys(step for _, m in shown for step in m.steps):
        values = [1e6 * m.a_row(m.steps.get(step, 0.0)) for _, m in shown]
        axes.barh([name for name, _ in shown], values, left=base, label=step)
        base = [one + other for one, other in zip(base, values, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="microseconds a row", title="where this project's time goes")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, fontsize="small")
