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
from airflow_reindex.monitoring.run_info import COLLECTION, RunFacts
from airflow_reindex.monitoring.run_snapshot import Gatherer, Material
from airflow_reindex.vectors.account import FAILED, read_failed

#: Statuses that give exit status 1.
_BAD = (Status.FAILED, Status.REFUSED, Status.CANCELED)
#: Refresh interval of a watched display, in seconds.
_WATCH_SECONDS = 2.0
LATEST = "latest"


def find(options: argparse.Namespace) -> RunFacts:
    """
    Find the run that a command line names by ``dag_id`` and ``run_id``.

    :raises RequestError: there is none.
    """
    dag_id, run_id = options.dag_id, options.run_id or LATEST
    if run_id == LATEST:
        found, _ = metadata.list_runs([dag_id], limit=1)
        facts = found[0] if found else None
    else:
        facts = metadata.find_run(dag_id, run_id)
    if facts is None or facts.kind is None:
        raise RequestError(
            f"there is no run '{run_id}' of a DAG '{dag_id}' that builds an index: `airflow-reindex status` lists runs."
        )
    return facts


def _look(facts: RunFacts) -> tuple[Material, dict[str, Any]]:
    material = Gatherer(run_folder(facts.dag_id, facts.run_id)).gather(facts)
    return material, overview(material, facts)


def status(options: argparse.Namespace, out: TextIO) -> int:
    """Show a run, or list runs; exit status 1 when the run has failed, was refused or canceled."""
    if options.run_id is None:
        return _list(options, out)
    facts = find(options)
    if options.watch and not options.json:
        seen = _watch(facts, out)
    else:
        _, seen = _look(facts)
        if options.json:
            print(json.dumps(seen, indent=1), file=out)
        else:
            Console(file=out).print(show.overview(seen))
    return int(seen["status"] in _BAD)


def _list(options: argparse.Namespace, out: TextIO) -> int:
    found, total = metadata.list_runs([options.dag_id] if options.dag_id else None, limit=options.limit)
    seen = [_look(facts)[1] for facts in found]
    if options.json:
        print(json.dumps(seen, indent=1), file=out)
    elif not seen:
        print("there are no runs yet", file=out)
    else:
        Console(file=out).print(show.runs(seen))
        if total > len(seen):
            print(f"the newest {len(seen)} of {total:,} runs; --limit shows more", file=out)
    return 0


def _watch(facts: RunFacts, out: TextIO) -> dict[str, Any]:
    gatherer = Gatherer(run_folder(facts.dag_id, facts.run_id))
    with Live(console=Console(file=out), auto_refresh=False) as live:
        while True:
            seen = overview(gatherer.gather(facts), facts)
            live.update(show.overview(seen), refresh=True)
            if not facts.live:
                return seen
            time.sleep(_WATCH_SECONDS)
            now = metadata.find_run(facts.dag_id, facts.run_id)
            if now is None:
                raise RequestError(f"run '{facts.run_id}' of '{facts.dag_id}' was deleted.")
            facts = now


def errors(options: argparse.Namespace, out: TextIO) -> int:
    """Show what failed in a run; exit status 1 when anything has."""
    facts = find(options)
    found = read_failures(run_folder(facts.dag_id, facts.run_id), _look(facts)[0], facts)
    if options.json:
        print(json.dumps(_error_map(found, _filter(options)), indent=1), file=out)
    else:
        _show_failures(found, options, out)
    return int(len(found.table) > 0)


def failed(options: argparse.Namespace, out: TextIO) -> int:
    """Show the failed items of a reindex, or the failed chunks of a build; exit status 1 when there are any."""
    facts = find(options)
    if facts.kind != COLLECTION:
        return errors(options, out)
    folder = run_folder(facts.dag_id, facts.run_id)
    found = read_failures(folder, _look(facts)[0], facts)
    if options.json:
        rows = found.select(_filter(options)).slice(options.offset, options.limit).to_pylist()
        names = {"chunk": "object_id", "kind": "failure_stage", "message": "detail", "worker": "window"}
        print(json.dumps([{new: row[old] for old, new in names.items()} for row in rows], indent=1), file=out)
    else:
        _show_failures(found, options, out)
        if next(read_failed(folder, FAILED), None) is not None and not facts.live:
            conf = {**facts.conf, "only_failed_of": facts.run_id}
            command = f"airflow dags trigger {facts.dag_id} --conf '{json.dumps(conf)}'"
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
    facts = find(options)
    tasks = metadata.resumable(facts)
    if options.yes:
        metadata.resume(facts)
    what = ", ".join(f"{number} {name}" for name, number in tasks.items()) or "nothing"
    text = f"{what} of run '{facts.run_id}'"
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
    facts = find(options)
    if not facts.live:
        raise RequestError(f"run '{facts.run_id}' of '{facts.dag_id}' has ended: there is nothing to cancel.")
    if options.yes:
        metadata.cancel(facts, getpass.getuser())
    done = f"run '{facts.run_id}' is canceled; `airflow-reindex resume` goes on with it"
    say(options, out, {"run_id": facts.run_id}, done, f"would end run '{facts.run_id}', which is {facts.state}")
    return 0
