"""How fast a director index is built: `python -m benchmarks.director --help`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.director.report import write
from benchmarks.director.scenarios import MEGA, SMALL, Bench

ALL, BOTH = ("qserv", "project", "ceiling"), ("qserv", "project")
Scenarios = dict[str, Callable[[], None]]


def main() -> None:
    """Measure."""
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
        bench = Bench(Path(folder), say, options.repeat)
        for name, run in (quick if options.quick else full)(bench, options).items():
            if options.only in name:
                run()
        write(bench.results, options.out, console)


def full(bench: Bench, options: argparse.Namespace) -> Scenarios:
    """
    All scenarios.

    :param bench: runs them.
    :param options: the command line's.
    :returns: what to call, by name.
    """
    rows = int(options.rows * MEGA)
    # A finished index takes 40 bytes a row: the pool is a quarter, with room for a third more than it has.
    quarter, large = f"{max(5, rows * 128 // (10 * MEGA))}M", f"{max(64, rows * 2048 // (10 * MEGA))}M"
    sizes = [rows // 4, rows // 2, 2 * rows]
    return {
        "200 chunks": lambda: bench.compare("200 chunks", quarter, rows, 200, sides=ALL),
        **{f"size {n:,}": partial(bench.compare, f"size {n:,}", quarter, n, 200, sides=ALL) for n in sizes},
        "growth": lambda: bench.growth(quarter, (rows // 4, 2 * rows), 200, max(3, options.repeat)),
        "2,000 chunks": lambda: bench.compare("2,000 chunks", quarter, rows, 2000, sides=BOTH),
        "memory": lambda: bench.compare("fits in memory", large, rows, 200, sides=ALL, lookups=True),
        "small": lambda: bench.small(20),
        "changed": lambda: bench.changed(quarter, rows, 200),
        **{f"throttled {size}": partial(bench.throttled, size, rows // 2, 200, 10.0) for size in (quarter, large)},
        "staging": lambda: bench.staging(quarter, rows // 2, 200, max(3, options.repeat)),
        "airflow": lambda: bench.airflow(1_000_000, 1000),
    }


def quick(bench: Bench, options: argparse.Namespace) -> Scenarios:
    """
    The same questions, of a small catalog.

    :param bench: runs them.
    :param options: the command line's; the sizes are a tenth.
    :returns: what to call, by name.
    """
    rows = int(options.rows * MEGA / 10)
    return {
        "quick": lambda: bench.compare("quick", "16M", rows, 100, sides=ALL),
        "memory": lambda: bench.compare("fits in memory", "256M", rows, 100, sides=BOTH, lookups=True),
        "small": lambda: bench.small(5),
        "changed": lambda: bench.changed("16M", rows, 100),
        "throttled": lambda: bench.throttled("64M", rows, 100, 3.0),
        "staging": lambda: bench.staging("16M", rows, 100, 1),
        "airflow": lambda: bench.airflow(rows, SMALL.chunks),
    }


if __name__ == "__main__":
    main()
