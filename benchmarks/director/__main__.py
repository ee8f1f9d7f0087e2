"""How fast a director index is built: `python -m benchmarks.director --help`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.director.report import show, write
from benchmarks.director.scenarios import MEGA, SMALL, Bench

ALL, BOTH = ("qserv", "project", "ceiling"), ("qserv", "project")
Scenarios = dict[str, Callable[[], None]]


def main() -> int:
    """
    Measure.

    :returns: exit status: 1 when a scenario has failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.director", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a million rows, in under three minutes")
    parser.add_argument("--rows", type=float, default=10, help="millions of rows of the main scenarios (default: 10)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side, of which the median counts")
    parser.add_argument("--out", type=Path, default=Path(".state/benchmarks/director"), help="where the results go")
    parser.add_argument("--only", default="", help="only scenarios whose names contain this")
    options = parser.parse_args()
    # Without a terminal, rich would take 80 columns.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {text}", markup=False, soft_wrap=True)

    # Servers and gigabytes of tables must not outlive a benchmark that somebody ends.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="reindex-benchmark-") as folder:
        bench, rows = Bench(Path(folder) / "bench", say, options.repeat), int(options.rows * MEGA)
        scenarios = quick(bench, rows // 10) if options.quick else full(bench, rows)
        measure(bench, {name: run for name, run in scenarios.items() if options.only in name}, options.out)
    show(bench.results, console)
    console.print(f"written: {', '.join(str(path) for path in sorted(options.out.glob('results.*')))}")
    return int(bool(bench.results.errors))


def measure(bench: Bench, scenarios: Scenarios, out: Path) -> None:
    """
    Run scenarios; one that fails takes nothing from the others. What is known is written down after each.

    :param bench: has the results, and the error of each scenario that failed.
    :param scenarios: what to call, by name.
    :param out: where the results go.
    """
    for name, run in scenarios.items():
        try:
            run()
        except Exception:
            bench.results.errors[name] = traceback.format_exc()
            bench.say(f"{name}: FAILED, the others go on\n{bench.results.errors[name].rstrip()}")
            # Claims, half-loaded tables, staged runs: the next scenario may be about the same catalog.
            shutil.rmtree(bench.folder, ignore_errors=True)
        finally:
            write(bench.results, out)


def full(bench: Bench, rows: int) -> Scenarios:
    """
    All scenarios.

    :param bench: runs them.
    :param rows: rows of the main scenarios.
    :returns: what to call, by name.
    """
    # A finished index takes 40 bytes a row: the pool is a quarter, with room for a third more than it has.
    quarter, large = f"{max(5, rows * 128 // (10 * MEGA))}M", f"{max(64, rows * 2048 // (10 * MEGA))}M"
    sizes = [rows // 4, rows // 2, 2 * rows]
    return {
        "200 chunks": lambda: bench.compare("200 chunks", quarter, rows, 200, sides=ALL),
        **{f"size {n:,}": partial(bench.compare, f"size {n:,}", quarter, n, 200, sides=ALL) for n in sizes},
        "growth": lambda: bench.growth(quarter, (rows // 4, 2 * rows), 200, max(3, bench.repeat)),
        "2,000 chunks": lambda: bench.compare("2,000 chunks", quarter, rows, 2000, sides=BOTH),
        "memory": lambda: bench.compare("fits in memory", large, rows, 200, sides=ALL, lookups=True),
        "small": lambda: bench.small(20),
        "changed": lambda: bench.changed(quarter, rows, 200),
        **{f"throttled {size}": partial(bench.throttled, size, rows // 2, 200, 10.0) for size in (quarter, large)},
        "staging": lambda: bench.staging(quarter, rows // 2, 200, max(3, bench.repeat)),
        "airflow": lambda: bench.airflow(1_000_000, 1000),
    }


def quick(bench: Bench, rows: int, seconds: float = 3.0) -> Scenarios:
    """
    The same questions, of a small catalog.

    :param bench: runs them.
    :param rows: its rows.
    :param seconds: for how long to read beside a build.
    :returns: what to call, by name.
    """
    return {
        "quick": lambda: bench.compare("quick", "16M", rows, 100, sides=ALL),
        "memory": lambda: bench.compare("fits in memory", "256M", rows, 100, sides=BOTH, lookups=True),
        "small": lambda: bench.small(5),
        "changed": lambda: bench.changed("16M", rows, 100),
        "throttled": lambda: bench.throttled("64M", rows, 100, seconds),
        "staging": lambda: bench.staging("16M", rows, 100, 1),
        "airflow": lambda: bench.airflow(rows, SMALL.chunks),
    }


if __name__ == "__main__":
    sys.exit(main())
