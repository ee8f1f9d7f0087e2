"""Runs in a terminal: tables of texts, in which markup from data is not interpreted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from airflow_reindex.core.progress import duration

_STYLES = {
    "done": "green", "failed": "red", "refused": "red", "canceled": "yellow", "processing": "cyan", "running": "cyan",
}  # fmt: skip


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """
    Create a table of texts.

    :param rows: cells; rich renderables are shown as they are.
    :param right: names of right-aligned columns.
    """
    made = Table(expand=False)
    for head in heads:
        made.add_column(head, overflow="fold", justify="right" if head in right else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text | ProgressBar) else Text(str(cell)) for cell in row))
    return made


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=_STYLES.get(name, ""))


def count(value: float | None) -> str:
    """Format a figure; ``None`` when it is unknown."""
    return "" if value is None else f"{value:,.0f}"


def eta(value: Mapping[str, float] | None) -> str:
    """
    Format the remaining time with its range.

    :param value: ``seconds``, ``low`` and ``high``.
    """
    if not value:
        return ""
    span = f" ({duration(value['low'])} to {duration(value['high'])})" if value["high"] > 1.05 * value["low"] else ""
    return duration(value["seconds"]) + span


def runs(found: Iterable[Mapping[str, Any]]) -> Table:
    """A table of run overviews."""
    heads = ("dag", "run", "status", "from → to", "started", "progress")
    return table(
        heads,
        (
            (
                run["dag_id"], run["run_id"], state(run["status"]), f"{run['source']} → {run['dest']}",
                (run["started_at"] or "")[:19], "" if run["progress"] is None else f"{100 * run['progress']:.0f} %",
            )
            for run in found
        ),
        right=("progress",),
    )  # fmt: skip


def overview(seen: Mapping[str, Any]) -> RenderableType:
    """Render a run's overview."""
    head = Text.assemble(state(seen["status"]), f"  {seen['dag_id']}  {seen['run_id']}")
    what = Text(f"{seen['source']} → {seen['dest']}")
    total = "" if seen["total"] is None else f"{count(seen['count'])} of {count(seen['total'])} {seen['unit']}"
    failed = f", {count(seen['failed'])} failed" if seen["failed"] else ""
    left = f", about {eta(seen['eta'])} left" if seen["eta"] else ""
    parts: list[RenderableType] = [head, what, Text(f"{total}{failed}{left}")]
    if seen["detail"]:
        parts.append(Text.assemble((seen["detail"], "red"), (f"  {seen['code']}" if seen["code"] else "", "dim")))
    parts.append(_phases(seen["phases"]))
    if seen["workers"]:
        parts.append(_workers(seen["workers"]))
    if seen["chunks"]:
        parts.append(Text("chunks: " + ", ".join(f"{count(n)} {name}" for name, n in seen["chunks"].items() if n)))
    for name in ("verification", "publication"):
        if seen[name]:
            said = "; ".join(f"{label}: {value}" for label, value in seen[name]["facts"].items())
            parts.append(Text(f"{seen[name].get('what', name)}: {seen[name]['state']}{f' ({said})' if said else ''}"))
    return Group(*parts)


def _phases(phases: Iterable[Mapping[str, Any]]) -> Table:
    heads = ("phase", "state", "tasks", "", "done", "rate", "time", "left")
    rows = []
    for phase in phases:
        part = 1.0 if phase["state"] == "done" else phase["done"] / phase["total"] if phase["total"] else 0.0
        of = f" of {count(phase['total'])}" if phase["total"] else ""
        done = f"{count(phase['done'])}{of} {phase['unit']}" if phase["done"] else ""
        tasks = ", ".join(f"{n} {name}" for name, n in phase["tasks"].items())
        rate = f"{count(phase['rate'])}/s" if phase["rate"] else ""
        spent = "" if phase["seconds"] is None else duration(phase["seconds"])
        bar = ProgressBar(total=1.0, completed=min(1.0, part), width=12)
        rows.append((phase["name"], state(phase["state"]), tasks, bar, done, rate, spent, eta(phase["eta"])))
    return table(heads, rows, right=("done", "rate", "time", "left"))


def _workers(workers: Iterable[Mapping[str, Any]]) -> Table:
    heads = ("worker", "chunks", "read", "failed", "rows", "rows/s")
    names = ("chunks", "staged", "failed", "rows", "rate")
    return table(heads, ((w["name"], *(count(w[name]) for name in names)) for w in workers), right=heads[1:])
