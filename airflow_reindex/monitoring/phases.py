"""Progress of a run's steps: state, counts, rate and remaining time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from airflow_reindex.core.heartbeat import ProgressSnapshot
from airflow_reindex.core.run_outcome import States, count_states
from airflow_reindex.core.task_records import TaskRecord
from airflow_reindex.director.model.costs import FAST, LOADING_CONNECTIONS
from airflow_reindex.monitoring.chunks import ADOPTED, STAGED, Chunks
from airflow_reindex.monitoring.rates import Eta, estimate, seconds_between
from airflow_reindex.monitoring.run_info import DIRECTOR, MAPPED, STEPS, RunInfo
from airflow_reindex.monitoring.run_snapshot import Piece, RunSnapshot

#: Airflow's states of tasks that are finished, and of those that are not yet.
_ENDED = ("success", "skipped")
#: Cost of a row in each step of a build in microseconds, measured with two connections of each kind.
_COSTS = {
    "extract": (FAST.read_server + FAST.read_client) / LOADING_CONNECTIONS,
    "load": FAST.load_many / LOADING_CONNECTIONS,
    "publish": FAST.verify / LOADING_CONNECTIONS,
}


@dataclass(frozen=True, kw_only=True)
class PhaseView:
    """
    A step as it is shown.

    :param name: its task id.
    :param state: ``waiting``, ``running``, ``done``, ``failed`` or ``skipped``.
    :param tasks: number of task instances by Airflow's state.
    :param unit: of ``done``, ``total`` and ``rate``.
    :param total: ``None`` when unknown.
    :param seconds: from its first task's start to the end of the last one.
    :param rate: units per second.
    """

    name: str
    state: str
    tasks: Mapping[str, int]
    unit: str
    done: int
    total: int | None = None
    seconds: float | None = None
    rate: float | None = None
    eta: Eta | None = None

    def as_dict(self) -> dict[str, Any]:
        """The phase as JSON-compatible values."""
        return asdict(self)


def state_of(states: States, *, live: bool) -> str:
    """
    Summarize the states of a step's tasks as a state of :class:`PhaseView`.

    :param states: by map index.
    :param live: whether the run has not ended.
    """
    found = set(states.values())
    if found <= {"skipped"}:
        return "skipped" if found else ("waiting" if live else "skipped")
    if found <= set(_ENDED):
        return "done"
    if "running" in found:
        return "running"
    if found & {"failed"}:
        return "failed"
    if not live or found <= {"upstream_failed"}:
        return "skipped" if found <= {"upstream_failed", *_ENDED} else "failed"
    # Some tasks have ended and others have not started.
    return "running" if found & set(_ENDED) else "waiting"


def phases(snapshot: RunSnapshot, info: RunInfo, now: str) -> list[PhaseView]:
    """
    Return the steps of a run in order; none for a DAG that belongs to neither job.

    :param now: UTC, ISO 8601.
    """
    kind = info.kind
    if kind is None:
        return []
    return [
        _phase(step, snapshot, info, now)
        for step in STEPS[kind]
        # A DAG without approval has no such task.
        if info.states(step) or step in ("plan", *MAPPED[kind])
    ]


def _phase(step: str, snapshot: RunSnapshot, info: RunInfo, now: str) -> PhaseView:
    states = info.states(step)
    records = [record for record in snapshot.records if record.task == step]
    beats = beats_at_work(step, snapshot, info)
    state = state_of(states, live=info.live)
    unit = "rows" if info.kind == DIRECTOR else "items"
    done, total = _done(step, snapshot, beats)
    seconds = _seconds(records, beats, now, running=state == "running")
    rate = done / seconds if seconds and done and step != "plan" else None
    eta = None
    if state == "running" and total and rate:
        eta = estimate(max(0, total - done), rate, sum(beat.recent for beat in beats))
    return PhaseView(
        name=step,
        state=state,
        tasks=count_states({step: states}).get(step, {}),
        unit=unit,
        done=done,
        total=total,
        seconds=seconds,
        rate=rate,
        eta=eta,
    )


def beats_at_work(step: str, snapshot: RunSnapshot, info: RunInfo) -> list[ProgressSnapshot]:
    """The progress snapshots of a step's running tasks, without those of earlier attempts."""
    ended = {record.index for record in snapshot.records if record.task == step and record.ended_at}
    states = info.states(step)
    return [
        beat
        for (task, index), beat in snapshot.beats.items()
        if task == step and states.get(index) == "running" and index not in ended
    ]


def _seconds(
    records: Sequence[TaskRecord], beats: Sequence[ProgressSnapshot], now: str, *, running: bool
) -> float | None:
    if not records:
        return None
    begin = min(record.started_at for record in records)
    ends = [record.ended_at for record in records if record.ended_at]
    end = now if running or beats else max(ends, default="")
    return round(seconds_between(begin, end), 3) if end else None


def _done(step: str, snapshot: RunSnapshot, beats: Sequence[ProgressSnapshot]) -> tuple[int, int | None]:
    """Rows or items of a step: done, and in all."""
    ended = [r for r in snapshot.records if r.task == step and r.ended_at and not r.error]
    at_work = sum(beat.done for beat in beats)
    if step == "extract" and snapshot.chunks is not None:
        return _extracted(snapshot.chunks, beats)
    if step in ("load", "reindex"):
        planned = sum(piece.planned for piece in snapshot.pieces)
        return sum(record.rows for record in ended) + at_work, planned or None
    rows = sum(record.rows for record in ended)
    total = beats[0].total if beats else None
    return rows or at_work, (rows or total or None) if step != "plan" else None


def _extracted(chunks: Chunks, beats: Sequence[ProgressSnapshot]) -> tuple[int, int]:
    wanted = chunks.state != ADOPTED
    done = int(chunks.rows[chunks.state == STAGED].sum()) + sum(rows_under_way(chunks, beats).values())
    return done, max(int(chunks.rows[wanted].sum()), done)


def rows_under_way(chunks: Chunks, beats: Iterable[ProgressSnapshot]) -> dict[int, int]:
    """
    Rows that running extract tasks have read of chunks that are not staged yet.

    :param beats: of running extract tasks.
    :returns: by worker, as an index into the chunks' ``workers``.
    """
    rows: dict[int, int] = {}
    for beat in beats:
        mine = chunks.group == beat.index
        # The snapshot may count rows of chunks that have been staged meanwhile.
        more = beat.done - int(chunks.rows[mine & (chunks.state == STAGED)].sum())
        if more > 0 and mine.any():
            worker = int(chunks.worker[mine][0])
            rows[worker] = rows.get(worker, 0) + more
    return rows


def remaining(found: Sequence[PhaseView], snapshot: RunSnapshot) -> Eta | None:
    """
    Estimate the remaining time of a run; ``None`` as long as nothing is known.

    A step that has not begun is estimated from the measured cost of a row, up to three times that.
    """
    etas = [phase.eta for phase in found if phase.eta is not None]
    if not etas:
        return None
    total = etas[0]
    for eta in etas[1:]:
        total += eta
    if snapshot.chunks is None:
        return total
    rows = int(snapshot.chunks.rows.sum())
    for phase in found:
        if phase.state == "waiting" and phase.name in _COSTS:
            seconds = rows * _COSTS[phase.name] * 1e-6
            total += Eta(seconds=seconds, low=seconds, high=3 * seconds)
    return total


def work_done(found: Sequence[PhaseView]) -> float:
    """Share of a build's work that is done, from 0 to 1; steps are weighted by their cost per row."""
    done = 0.0
    for phase in found:
        part = 1.0 if phase.state == "done" else phase.done / phase.total if phase.total else 0.0
        done += _COSTS.get(phase.name, 0.0) * min(1.0, part)
    return round(done / sum(_COSTS.values()), 6)


def pieces(snapshot: RunSnapshot, info: RunInfo, now: str) -> list[dict[str, Any]]:
    """
    The key ranges or windows of a run as they are shown.

    :param now: UTC, ISO 8601.
    """
    step = "load" if info.kind == DIRECTOR else "reindex"
    records = {record.index: record for record in snapshot.records if record.task == step}
    return [
        _piece(piece, info.states(step), records.get(piece.number), snapshot.beats.get((step, piece.number)), info, now)
        for piece in snapshot.pieces
    ]


def _piece(
    piece: Piece, states: States, record: TaskRecord | None, beat: ProgressSnapshot | None, info: RunInfo, now: str
) -> dict[str, Any]:
    ended = record is not None and bool(record.ended_at)
    good = record is not None and ended and not record.error
    working = states.get(piece.number) == "running" and not ended
    bad = bool(record and record.error) or states.get(piece.number) == "failed" or not (good or info.live)
    rows = record.rows if record and good else (beat.done if beat and working else 0)
    end = record.ended_at if record and ended else now
    seconds = seconds_between(record.started_at, end) if record and (ended or working) else None
    return {
        "number": piece.number,
        "label": piece.label,
        "from": piece.low,
        "upto": piece.high,
        "planned": piece.planned,
        "done": rows,
        "state": "done" if good else "running" if working else "failed" if bad else "waiting",
        "seconds": seconds,
        "rate": round(rows / seconds, 1) if seconds and rows else None,
        "failed": int(record.result.get("failed", 0)) if record and good else len(record.failures) if record else 0,
    }


def worker_spans(snapshot: RunSnapshot, info: RunInfo, now: str) -> dict[int, float]:
    """
    Seconds with a running extract task, by worker as an index into the chunks' ``workers``.

    :param now: UTC, ISO 8601.
    """
    chunks = snapshot.chunks
    if chunks is None or not len(chunks.chunk):
        return {}
    groups, first = np.unique(chunks.group, return_index=True)
    worker_of = dict(zip(groups.tolist(), chunks.worker[first].tolist(), strict=True))
    spans: dict[int, list[str]] = {}
    for record in snapshot.records:
        if record.task == "extract" and record.index in worker_of and (record.ended_at or info.live):
            spans.setdefault(worker_of[record.index], []).extend((record.started_at, record.ended_at or now))
    return {worker: seconds_between(min(times), max(times)) for worker, times in spans.items()}
