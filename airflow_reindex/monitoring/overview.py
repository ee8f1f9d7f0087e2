"""Overview of a run: one dict for the page, the command line and the task API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.filesize import decimal

from airflow_reindex.core.failures import Code, Reason, truncate_detail
from airflow_reindex.core.report import Status
from airflow_reindex.core.run_outcome import first_error
from airflow_reindex.core.task_records import now as utc_now
from airflow_reindex.monitoring.phases import (
    PhaseView,
    beats_at_work,
    phases,
    pieces,
    remaining,
    rows_under_way,
    work_done,
    worker_spans,
)
from airflow_reindex.monitoring.run_info import DIRECTOR, MAPPED, STEPS, RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot


def fresh_report(snapshot: RunSnapshot, info: RunInfo) -> Mapping[str, Any] | None:
    """The report of a run's current attempt; ``None`` while it runs, and when it ended without one."""
    report = snapshot.report
    if report is None or info.live or (info.started_at and report["updated_at"] < info.started_at):
        return None
    return report


def status_of(snapshot: RunSnapshot, info: RunInfo) -> tuple[Status, Reason]:
    """A run's status and the reason for it."""
    if info.live:
        return (Status.PENDING if info.state == "queued" else Status.PROCESSING), Reason(Code.OTHER, "")
    # A canceled run that was cleared since is judged by its current attempt.
    if snapshot.canceled is not None and snapshot.canceled["at"] >= (info.started_at or ""):
        text = f"canceled by {snapshot.canceled['by']} at {snapshot.canceled['at']}"
        return Status.CANCELED, Reason(Code.OTHER, text)
    report = fresh_report(snapshot, info)
    if report is not None:
        # Reports of earlier versions have no code.
        return Status(report["status"]), Reason(Code(report.get("code", "")), report["detail"])
    steps = STEPS[info.kind] if info.kind else ()
    why = first_error(snapshot.records, {step: info.states(step) for step in steps}, steps)
    if why is None:
        why = Reason(Code.OTHER, "the run ended before its report was written: clear its failed tasks.")
    return Status.FAILED, Reason(why.code, truncate_detail(why.text))


def overview(snapshot: RunSnapshot, info: RunInfo) -> dict[str, Any]:
    """Describe a run in plain types with a fixed set of keys."""
    at = utc_now()
    status, why = status_of(snapshot, info)
    report = fresh_report(snapshot, info)
    found = phases(snapshot, info, at)
    counts = _counts(snapshot, info, report)
    done_pieces = [piece for piece in pieces(snapshot, info, at) if piece["state"] == "done"]
    eta = remaining(found, snapshot) if info.live else None
    return {
        "dag_id": info.dag_id,
        "run_id": info.run_id,
        "kind": info.kind,
        "status": status.value,
        "detail": why.text,
        "code": why.code.value if why.text and not info.live else "",
        **_ends(snapshot, info, report),
        "started_at": info.started_at or info.queued_at,
        "ended_at": info.ended_at,
        "updated_at": at if info.live else (report["updated_at"] if report else info.ended_at or at),
        "now": at,
        "live": info.live,
        "unit": "chunks" if info.kind == DIRECTOR else "items",
        **counts,
        **({"progress": work_done(found)} if info.live and snapshot.chunks else {}),
        "eta": asdict(eta) if eta else None,
        "phases": [phase.as_dict() for phase in found],
        "workers": _workers(snapshot, info, at),
        "chunks": snapshot.chunks.counts() if snapshot.chunks else None,
        "ranges": {
            "total": len(snapshot.pieces),
            "done": len(done_pieces),
            "noun": "key ranges" if info.kind == DIRECTOR else "windows",
        },
        "verification": _verification(snapshot, found),
        "publication": _publication(snapshot, info),
        "notes": _notes(snapshot, report),
    }


def _workers(snapshot: RunSnapshot, info: RunInfo, at: str) -> list[dict[str, Any]]:
    if snapshot.chunks is None:
        return []
    under_way = rows_under_way(snapshot.chunks, beats_at_work("extract", snapshot, info))
    return snapshot.chunks.by_worker(worker_spans(snapshot, info, at), under_way)


def _ends(snapshot: RunSnapshot, info: RunInfo, report: Mapping[str, Any] | None) -> dict[str, str]:
    if report is not None and report["source"]:
        return {"source": report["source"], "dest": report["dest"]}
    plan, conf = snapshot.plan, info.conf
    if info.kind == DIRECTOR:
        asked = plan["request"] if plan else conf
        database, table = asked.get("database", ""), asked.get("director_table", "")
        where = f"{plan['index_database']}." if plan else ""
        return {"source": f"{database}.{table}", "dest": f"{where}{database}__{table}"}
    if plan:
        return {name: plan[name]["collection_id"] for name in ("source", "dest")}
    return {name: str(conf.get(f"{name}_embedding_model_id", "")) for name in ("source", "dest")}


def _counts(snapshot: RunSnapshot, info: RunInfo, report: Mapping[str, Any] | None) -> dict[str, Any]:
    if report is not None and report["total"]:
        return {name: report[name] for name in ("total", "count", "failed", "rows", "progress")}
    if snapshot.chunks is not None:
        states = snapshot.chunks.counts()
        total, failed = len(snapshot.chunks.chunk), states["failed"]
        count = states["staged"] + states["adopted"]
    elif snapshot.plan is not None:
        work = [r for r in snapshot.records if r.task == MAPPED.get(info.kind or "", ("",))[0]]
        failed = sum(int(record.result.get("failed", 0)) for record in work)
        seen = sum(int(record.result.get("seen", 0)) for record in work)
        total = int(snapshot.plan.get("total", 0))
        beats = sum(beat.done for (task, _), beat in snapshot.beats.items() if task == "reindex") if info.live else 0
        count = min(seen - failed + beats, max(total - failed, 0))
    else:
        return {"total": None, "count": 0, "failed": 0, "rows": 0, "progress": None}
    progress = round((count + failed) / total, 6) if total else 1.0
    return {"total": total, "count": count, "failed": failed, "rows": 0, "progress": progress}


def _verification(snapshot: RunSnapshot, found: Sequence[PhaseView]) -> dict[str, Any] | None:
    for phase in found:
        if phase.name not in ("publish", "verify") or phase.state in ("waiting", "skipped"):
            continue
        record = snapshot.record(phase.name)
        good = record is not None and bool(record.result) and bool(record.ended_at) and not record.error
        state = "proven" if good else "failed" if phase.state == "failed" else "running"
        info: dict[str, str] = {}
        if good and record is not None and phase.name == "publish":
            info = {
                "Rows": f"{record.rows:,}",
                "Key ranges": f"{len(snapshot.pieces):,}",
                "Proof": "counts and checksums of each key range equal those of the chunks as they left the workers",
            }
        elif good and record is not None:
            info = {
                "Items": f"{record.rows:,}",
                "Not in the destination": f"{record.result.get('failed', 0):,}, all listed",
                **({"Written by others, left alone": f"{left:,}"} if (left := record.result.get("left_alone")) else {}),
                **_some(record.result, {"recall_at_10": "Recall@10", "ann_ms": "ANN search, ms", "exact_ms": "Exact "
                        "search, ms"}),
            }  # fmt: skip
        elif record is not None and record.error:
            info = {"Error": record.error}
        return {"state": state, "facts": info}
    return None


def _publication(snapshot: RunSnapshot, info: RunInfo) -> dict[str, Any] | None:
    what = "publish" if info.kind == DIRECTOR else "switch"
    if info.kind is None or snapshot.plan is None:
        return None
    record = snapshot.record(what)
    done = record is not None and bool(record.result) and bool(record.ended_at) and not record.error
    if what == "switch" and not snapshot.plan["request"].get("deploy_as_blue"):
        return {"what": what, "state": "not done", "facts": {"Readers": "were not to be switched over by this run"}}
    if not done or record is None:
        return {"what": what, "state": "not done", "facts": {}}
    # Runs of the first version have the last one under another name.
    result = {"late_writes": record.result.get("stragglers"), **record.result}
    labels = {
        "alias": "Alias", "previous": "Before", "items": "Items", "caught_up": "Caught up under the lock",
        "late_writes": "Carried over after it", "roll_back": "To roll back",
    }  # fmt: skip
    return {"what": what, "state": "done", "facts": {"At": _moment(record.ended_at), **_some(result, labels)}}


def _moment(text: str) -> str:
    return f"{text[:19].replace('T', ' ')} UTC"


def _some(result: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    return {label: str(result[name]) for name, label in labels.items() if result.get(name) not in (None, "")}


def _notes(snapshot: RunSnapshot, report: Mapping[str, Any] | None) -> dict[str, str]:
    planned = snapshot.record("plan")
    result = planned.result if planned else {}
    notes = _some(result, {"time": "Estimate"})
    for name, label in (("staging_bytes", "Staging"), ("index_bytes", "Index")):
        if result.get(name):
            notes[label] = f"about {decimal(int(result[name]))}"
    if report is not None:
        labels = {
            "not_checked": "Not checked",
            "adopted_chunks": "Chunks taken over from earlier runs",
            "unlisted_in_all": "Chunk tables left out, as the catalog does not list them",
            "others": "Left alone",
        }
        notes |= _some(report.get("notes", {}), labels) | _changed(report.get("notes", {}).get("changed_chunks", {}))
    return notes


def _changed(found: Mapping[str, Any]) -> dict[str, str]:
    """Chunk tables that changed before the swap, and how that was handled."""
    notes = {}
    if found.get("count"):
        first = found["chunks"][0]
        what = "read again before the swap" if found["policy"] == "reread" else "the index has their rows as read"
        notes["Changed meanwhile"] = (
            f"{found['count']} chunk table(s), such as chunk {first['chunk']} of {first['worker']} "
            f"({first['change']}): {what}"
        )
    if found.get("not_compared"):
        notes["Not compared again"] = ", ".join(found["not_compared"])
    return notes
