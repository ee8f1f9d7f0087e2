"""Overview of a run: one dict for the page, the command line and the task API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.filesize import decimal

from airflow_reindex.core.failures import Code, Reason, detail
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
from airflow_reindex.monitoring.run_info import DIRECTOR, MAPPED, STEPS, RunFacts
from airflow_reindex.monitoring.run_snapshot import Material


def fresh_report(material: Material, facts: RunFacts) -> Mapping[str, Any] | None:
    """The report of a run's current attempt; ``None`` while it runs, and when it ended without one."""
    report = material.report
    if report is None or facts.live or (facts.started_at and report["updated_at"] < facts.started_at):
        return None
    return report


def status_of(material: Material, facts: RunFacts) -> tuple[Status, Reason]:
    """A run's status and the reason for it."""
    if facts.live:
        return (Status.PENDING if facts.state == "queued" else Status.PROCESSING), Reason(Code.OTHER, "")
    # A canceled run that was cleared since is judged by its current attempt.
    if material.canceled is not None and material.canceled["at"] >= (facts.started_at or ""):
        text = f"canceled by {material.canceled['by']} at {material.canceled['at']}"
        return Status.CANCELED, Reason(Code.OTHER, text)
    report = fresh_report(material, facts)
    if report is not None:
        # Reports of earlier versions have no code.
        return Status(report["status"]), Reason(Code(report.get("code", "")), report["detail"])
    steps = STEPS[facts.kind] if facts.kind else ()
    why = first_error(material.records, {step: facts.states(step) for step in steps}, steps)
    if why is None:
        why = Reason(Code.OTHER, "the run ended before its report was written: clear its failed tasks.")
    return Status.FAILED, Reason(why.code, detail(why.text))


def overview(material: Material, facts: RunFacts) -> dict[str, Any]:
    """Describe a run in plain types with a fixed set of keys."""
    at = utc_now()
    status, why = status_of(material, facts)
    report = fresh_report(material, facts)
    found = phases(material, facts, at)
    counts = _counts(material, facts, report)
    done_pieces = [piece for piece in pieces(material, facts, at) if piece["state"] == "done"]
    eta = remaining(found, material) if facts.live else None
    return {
        "dag_id": facts.dag_id,
        "run_id": facts.run_id,
        "kind": facts.kind,
        "status": status.value,
        "detail": why.text,
        **_ends(material, facts, report),
        "started_at": facts.started_at or facts.queued_at,
        "ended_at": facts.ended_at,
        "updated_at": at if facts.live else (report["updated_at"] if report else facts.ended_at or at),
        "now": at,
        "live": facts.live,
        "unit": "chunks" if facts.kind == DIRECTOR else "items",
        **counts,
        **({"progress": work_done(found)} if facts.live and material.chunks else {}),
        "eta": asdict(eta) if eta else None,
        "phases": [phase.as_dict() for phase in found],
        "workers": _workers(material, facts, at),
        "chunks": material.chunks.counts() if material.chunks else None,
        "ranges": {
            "total": len(material.pieces),
            "done": len(done_pieces),
            "noun": "key ranges" if facts.kind == DIRECTOR else "windows",
        },
        "verification": _verification(material, found),
        "publication": _publication(material, facts),
        "notes": _notes(material, report),
    }


def _workers(material: Material, facts: RunFacts, at: str) -> list[dict[str, Any]]:
    if material.chunks is None:
        return []
    under_way = rows_under_way(material.chunks, beats_at_work("extract", material, facts))
    return material.chunks.by_worker(worker_spans(material, facts, at), under_way)


def _ends(material: Material, facts: RunFacts, report: Mapping[str, Any] | None) -> dict[str, str]:
    if report is not None and report["source"]:
        return {"source": report["source"], "dest": report["dest"]}
    plan, conf = material.plan, facts.conf
    if facts.kind == DIRECTOR:
        asked = plan["request"] if plan else conf
        database, table = asked.get("database", ""), asked.get("director_table", "")
        where = f"{plan['index_database']}." if plan else ""
        return {"source": f"{database}.{table}", "dest": f"{where}{database}__{table}"}
    if plan:
        return {name: plan[name]["collection_id"] for name in ("source", "dest")}
    return {name: str(conf.get(f"{name}_embedding_model_id", "")) for name in ("source", "dest")}


def _counts(material: Material, facts: RunFacts, report: Mapping[str, Any] | None) -> dict[str, Any]:
    if report is not None and report["total"]:
        return {name: report[name] for name in ("total", "count", "failed", "rows", "progress")}
    if material.chunks is not None:
        states = material.chunks.counts()
        total, failed = len(material.chunks.chunk), states["failed"]
        count = states["staged"] + states["adopted"]
    elif material.plan is not None:
        work = [r for r in material.records if r.task == MAPPED.get(facts.kind or "", ("",))[0]]
        failed = sum(int(record.result.get("failed", 0)) for record in work)
        seen = sum(int(record.result.get("seen", 0)) for record in work)
        total = int(material.plan.get("total", 0))
        beats = sum(beat.done for (task, _), beat in material.beats.items() if task == "reindex") if facts.live else 0
        count = min(seen - failed + beats, max(total - failed, 0))
    else:
        return {"total": None, "count": 0, "failed": 0, "rows": 0, "progress": None}
    progress = round((count + failed) / total, 6) if total else 1.0
    return {"total": total, "count": count, "failed": failed, "rows": 0, "progress": progress}


def _verification(material: Material, found: Sequence[PhaseView]) -> dict[str, Any] | None:
    for phase in found:
        if phase.name not in ("publish", "verify") or phase.state in ("waiting", "skipped"):
            continue
        record = material.record(phase.name)
        good = record is not None and bool(record.result) and bool(record.ended_at) and not record.error
        state = "proven" if good else "failed" if phase.state == "failed" else "running"
        facts: dict[str, str] = {}
        if good and record is not None and phase.name == "publish":
            facts = {
                "Rows": f"{record.rows:,}",
                "Key ranges": f"{len(material.pieces):,}",
                "Proof": "counts and checksums of each key range equal those of the chunks as they left the workers",
            }
        elif good and record is not None:
            facts = {
                "Items": f"{record.rows:,}",
                "Not in the destination": f"{record.result.get('failed', 0):,}, all listed",
                **({"Written by others, left alone": f"{left:,}"} if (left := record.result.get("left_alone")) else {}),
                **_some(record.result, {"recall_at_10": "Recall@10", "ann_ms": "ANN search, ms", "exact_ms": "Exact "
                        "search, ms"}),
            }  # fmt: skip
        elif record is not None and record.error:
            facts = {"Error": record.error}
        return {"state": state, "facts": facts}
    return None


def _publication(material: Material, facts: RunFacts) -> dict[str, Any] | None:
    what = "publish" if facts.kind == DIRECTOR else "switch"
    if facts.kind is None or material.plan is None:
        return None
    record = material.record(what)
    done = record is not None and bool(record.result) and bool(record.ended_at) and not record.error
    if what == "switch" and not material.plan["request"].get("deploy_as_blue"):
        return {"what": what, "state": "not done", "facts": {"Readers": "were not to be switched over by this run"}}
    if not done or record is None:
        return {"what": what, "state": "not done", "facts": {}}
    labels = {
        "alias": "Alias", "previous": "Before", "items": "Items", "caught_up": "Caught up under the lock",
        "stragglers": "Carried over after it", "roll_back": "To roll back",
    }  # fmt: skip
    return {"what": what, "state": "done", "facts": {"At": _moment(record.ended_at), **_some(record.result, labels)}}


def _moment(text: str) -> str:
    return f"{text[:19].replace('T', ' ')} UTC"


def _some(result: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    return {label: str(result[name]) for name, label in labels.items() if result.get(name) not in (None, "")}


def _notes(material: Material, report: Mapping[str, Any] | None) -> dict[str, str]:
    planned = material.record("plan")
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
