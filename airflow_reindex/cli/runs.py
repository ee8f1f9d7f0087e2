"""The commands that show, cancel and resume runs."""

from __future__ import annotations

import argparse
import getpass
import json
import time
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live

from airflow_reindex import metadata
from airflow_reindex.cli import show
from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.report import Status
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.monitoring.failures import COLUMNS, Failures, Filter, read_failures
from airflow_reindex.monitoring.overview import overview
from airflow_reindex.monitoring.run_info import COLLECTION, RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot, SnapshotReader
from airflow_reindex.vectors.account import FAILED, read_failed

#: Statuses that give exit status 1.
_BAD = (Status.FAILED, Status.REFUSED, Status.CANCELED)
#: Refresh interval of a watched display, in seconds.
_WATCH_SECONDS = 2.0
LATEST = "latest"


def find(options: argparse.Namespace) -> RunInfo:
    """
    Find the run that a command line names by ``dag_id`` and ``run_id``.

    :raises RequestError: there is none.
    """
    dag_id, run_id = options.dag_id, options.run_id or LATEST
    if run_id == LATEST:
        found, _ = metadata.list_runs([dag_id], limit=1)
        info = found[0] if found else None
    else:
        info = metadata.find_run(dag_id, run_id)
    if info is None or info.kind is None:
        raise RequestError(
            f"there is no run '{run_id}' of a DAG '{dag_id}' that builds an index: `airflow-reindex status` lists runs."
        )
    return info


def _look(info: RunInfo) -> tuple[RunSnapshot, dict[str, Any]]:
    snapshot = SnapshotReader(run_folder(info.dag_id, info.run_id)).read(info)
    return snapshot, overview(snapshot, info)


def status(options: argparse.Namespace, out: TextIO) -> int:
    """Show a run, or list runs; exit status 1 when the run has failed, was refused or canceled."""
    if options.run_id is None:
        return _list(options, out)
    info = find(options)
    if options.watch and not options.json:
        seen = _watch(info, out)
    else:
        _, seen = _look(info)
        if options.json:
            print(json.dumps(seen, indent=1), file=out)
        else:
            Console(file=out).print(show.overview(seen))
    return int(seen["status"] in _BAD)


def _list(options: argparse.Namespace, out: TextIO) -> int:
    found, total = metadata.list_runs([options.dag_id] if options.dag_id else None, limit=options.limit)
    seen = [_look(info)[1] for info in found]
    if options.json:
        print(json.dumps(seen, indent=1), file=out)
    elif not seen:
        print("there are no runs yet", file=out)
    else:
        Console(file=out).print(show.runs(seen))
        if total > len(seen):
            print(f"the newest {len(seen)} of {total:,} runs; --limit shows more", file=out)
    return 0


def _watch(info: RunInfo, out: TextIO) -> dict[str, Any]:
    reader = SnapshotReader(run_folder(info.dag_id, info.run_id))
    with Live(console=Console(file=out), auto_refresh=False) as live:
        while True:
            seen = overview(reader.read(info), info)
            live.update(show.overview(seen), refresh=True)
            if not info.live:
                return seen
            time.sleep(_WATCH_SECONDS)
            now = metadata.find_run(info.dag_id, info.run_id)
            if now is None:
                raise RequestError(f"run '{info.run_id}' of '{info.dag_id}' was deleted.")
            info = now


def errors(options: argparse.Namespace, out: TextIO) -> int:
    """Show what failed in a run; exit status 1 when anything has."""
    info = find(options)
    found = read_failures(run_folder(info.dag_id, info.run_id), _look(info)[0], info)
    if options.json:
        print(json.dumps(_error_map(found, _filter(options)), indent=1), file=out)
    else:
        _show_failures(found, options, out)
    return int(len(found.table) > 0)


def failed(options: argparse.Namespace, out: TextIO) -> int:
    """Show the failed items of a reindex, or the failed chunks of a build; exit status 1 when there are any."""
    info = find(options)
    if info.kind != COLLECTION:
        return errors(options, out)
    folder = run_folder(info.dag_id, info.run_id)
    found = read_failures(folder, _look(info)[0], info)
    if options.json:
        rows = found.select(_filter(options)).slice(options.offset, options.limit).to_pylist()
        names = {"chunk": "object_id", "kind": "failure_stage", "message": "detail", "worker": "window"}
        print(json.dumps([{new: row[old] for old, new in names.items()} for row in rows], indent=1), file=out)
    else:
        _show_failures(found, options, out)
        if next(read_failed(folder, FAILED), None) is not None and not info.live:
            conf = {**info.conf, "only_failed_of": info.run_id}
            command = f"airflow dags trigger {info.dag_id} --conf '{json.dumps(conf)}'"
            print(f"to try them again: {command}", file=out)
    return int(len(found.table) > 0)


def _filter(options: argparse.Namespace) -> Filter:
    return Filter(text=options.grep, kind=options.kind, worker=options.worker)


def _error_map(found: Failures, wanted: Filter) -> dict[str, dict[str, dict[str, str]]]:
    result: dict[str, dict[str, dict[str, str]]] = {}
    for row in found.select(wanted).to_pylist():
        result.setdefault(row["table"], {}).setdefault(row["worker"], {})[str(row["chunk"])] = row["message"]
    return result


def _show_failures(found: Failures, options: argparse.Namespace, out: TextIO) -> None:
    if options.csv:
        out.writelines(found.csv(_filter(options)))
        return
    page = found.page(_filter(options), options.offset, options.limit)
    console = Console(file=out)
    if options.by_kind:
        console.print(show.table(("count", "kind"), ((k["count"], k["kind"]) for k in page["kinds"]), right=("count",)))
        return
    if not page["matched"]:
        print("nothing has failed" if not page["total"] else "nothing matches", file=out)
        return
    columns = [name for name in COLUMNS if name != "table"]
    heads = [page["columns"][name].lower() for name in columns]
    console.print(show.table(heads, ([row[name] for name in columns] for row in page["rows"])))
    shown = options.offset + len(page["rows"])
    if shown < page["matched"]:
        print(f"{shown:,} of {page['matched']:,} shown; --offset {shown} shows more, --csv all", file=out)


def resume(options: argparse.Namespace, out: TextIO) -> int:
    """Clear what has failed in a run."""
    info = find(options)
    tasks = metadata.resumable(info)
    if options.yes:
        metadata.resume(info)
    what = ", ".join(f"{number} {name}" for name, number in tasks.items()) or "nothing"
    text = f"{what} of run '{info.run_id}'"
    say(options, out, {"tasks": tasks}, f"cleared {text}; what was done stays done", f"would clear {text}")
    return 0


def say(options: argparse.Namespace, out: TextIO, what: dict[str, Any], done: str, would: str) -> None:
    """
    Report what was done, or what would be without ``--yes``.

    :param what: the JSON output.
    :param done: the text after the action.
    :param would: the text of a rehearsal.
    """
    if options.json:
        print(json.dumps({**what, "done": options.yes}), file=out)
    else:
        print(done if options.yes else f"{would}; --yes does it", file=out)


def cancel(options: argparse.Namespace, out: TextIO) -> int:
    """
    Cancel a run.

    :raises RequestError: it has ended.
    """
    info = find(options)
    if not info.live:
        raise RequestError(f"run '{info.run_id}' of '{info.dag_id}' has ended: there is nothing to cancel.")
    if options.yes:
        metadata.cancel(info, getpass.getuser())
    done = f"run '{info.run_id}' is canceled; `airflow-reindex resume` goes on with it"
    say(options, out, {"run_id": info.run_id}, done, f"would end run '{info.run_id}', which is {info.state}")
    return 0
