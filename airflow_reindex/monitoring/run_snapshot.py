"""Contents of a run's folder: plan, records, progress snapshots, chunks and pieces, reread while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from airflow_reindex.core.heartbeat import LIVE, ProgressSnapshot
from airflow_reindex.core.reader import JsonFiles
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import CANCELED, PLAN, REPORT, TASKS, VIEW, TaskRecord, task_record
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import SPLIT, read_groups
from airflow_reindex.director.model.runs import RUNS, Manifest, accounted
from airflow_reindex.director.model.split import Split
from airflow_reindex.monitoring.chunks import Chunks, Planned, look_at_chunks
from airflow_reindex.monitoring.run_info import DIRECTOR, RunInfo
from airflow_reindex.vectors.model.plan import ReindexPlan


@dataclass(frozen=True, kw_only=True)
class Piece:
    """
    The work of one task of the last mapped step: a key range, or a window of items.

    :param number: its map index.
    :param label: its map index label in Airflow's UI.
    :param low: where it begins.
    :param high: where it ends.
    :param planned: rows or items.
    """

    number: int
    label: str
    low: str
    high: str
    planned: int


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """
    Contents of a run's folder.

    :param plan: the plan's figures; ``None`` without a plan.
    :param records: of the current plan, and of the planning itself.
    :param beats: of running tasks, by task and map index.
    :param chunks: of a build.
    :param report: the last one; it may belong to an earlier attempt of the run.
    :param canceled: when and by whom the run was canceled.
    """

    plan: Mapping[str, Any] | None
    records: list[TaskRecord] = field(default_factory=list)
    beats: Mapping[tuple[str, int], ProgressSnapshot] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    chunks: Chunks | None = None
    report: Mapping[str, Any] | None = None
    canceled: Mapping[str, Any] | None = None

    def record(self, task: str, index: int = -1) -> TaskRecord | None:
        """Return the record of a task instance, or ``None``."""
        return next((r for r in self.records if (r.task, r.index) == (task, index)), None)


class SnapshotReader:
    """Reads a run's folder repeatedly; keeps what has not changed since the last time."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._records = JsonFiles(folder, TASKS, lambda _, value: task_record(value))
        self._beats = JsonFiles(folder, LIVE, lambda _, value: ProgressSnapshot(**value))
        self._manifests = JsonFiles(folder, RUNS, lambda name, value: Manifest.from_dict(f"{RUNS}/{name}", value))
        self._planned: tuple[str, Planned] | None = None

    def read(self, info: RunInfo) -> RunSnapshot:
        """Read the folder now."""
        common = {"report": self.folder.read_json(REPORT), "canceled": self.folder.read_json(CANCELED)}
        kept = self.folder.read_json(VIEW)
        value = self.folder.read_json(PLAN)
        if value is None and kept is not None and info.states("plan").get(-1) == "success":
            return replace(_read_back(kept), **common)
        records = list(self._records.read().values())
        token = value["token"] if value else None
        mine = [r for r in records if r.task == "plan" or r.token == token]
        if value is None or next((r.token for r in mine if r.task == "plan"), None) != token:
            # There is no plan, or it belongs to an earlier attempt of the run.
            return RunSnapshot(plan=None, records=[r for r in mine if r.task == "plan"], **common)
        beats = {(b.task, b.index): b for b in self._beats.read().values() if b.token in ("", token)}
        found = RunSnapshot(plan=value, records=mine, beats=beats, **common)
        return self._of_build(found, info) if info.kind == DIRECTOR else _of_reindex(found)

    def _of_build(self, found: RunSnapshot, info: RunInfo) -> RunSnapshot:
        assert found.plan is not None  # noqa: S101 - for the type checker
        plan = Plan.from_dict(found.plan)
        if self._planned is None or self._planned[0] != plan.token:
            self._planned = plan.token, Planned.of(read_groups(self.folder, plan))
        staged = accounted(self._manifests.read().values(), plan.token, plan.adopted)
        running = [index for index, state in info.states("extract").items() if state == "running"]
        chunks = look_at_chunks(
            self._planned[1], staged, plan.adopted, found.records, running, live=info.live
        )  # fmt: skip
        cut = found.record("split")
        value = self.folder.read_json(SPLIT) if cut and cut.token == plan.token and cut.result else None
        split = Split.from_dict(value) if value else None
        pieces = [
            Piece(
                number=r.number,
                label=r.label,
                low="" if r.bounds[0] is None else str(r.bounds[0]),
                high="" if r.bounds[-1] is None else str(r.bounds[-1]),
                planned=r.rows,
            )
            for r in (split.ranges if split else ())
        ]
        return replace(found, chunks=chunks, pieces=pieces)


def _of_reindex(found: RunSnapshot) -> RunSnapshot:
    assert found.plan is not None  # noqa: S101 - for the type checker
    pieces = [
        Piece(number=w.number, label=w.label, low=w.after or "", high=w.until or "", planned=w.limit)
        for w in ReindexPlan.from_dict(found.plan).windows
    ]
    return replace(found, pieces=pieces)


def keep(folder: Folder, info: RunInfo) -> None:
    """Save what is shown of a build before its staged rows are removed."""
    found = SnapshotReader(folder).read(info)
    if found.plan is None or found.chunks is None:
        return
    plan = {k: v for k, v in found.plan.items() if k != "adopted"}
    records = [{**asdict(record), "failures": []} for record in found.records]
    folder.write_json(
        VIEW,
        {
            "plan": plan,
            "records": records,
            "pieces": [asdict(piece) for piece in found.pieces],
            "chunks": found.chunks.as_dict(),
        },
    )


def _read_back(value: Mapping[str, Any]) -> RunSnapshot:
    return RunSnapshot(
        plan=value["plan"],
        records=[task_record(record) for record in value["records"]],
        pieces=[Piece(**piece) for piece in value["pieces"]],
        chunks=Chunks.from_dict(value["chunks"]),
    )
