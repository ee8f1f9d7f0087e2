"""The commands `doctor` and `repair`: orphans of dead runs."""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TextIO

import MySQLdb
from rich.console import Console
from rich.table import Table

from airflow_reindex import config
from airflow_reindex.core.claims import Owner
from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.core.orphans import Orphan, OrphanState
from airflow_reindex.core.report import Status
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT, is_run_folder, task_records
from airflow_reindex.director import orphans as director_orphans
from airflow_reindex.director.mysql.client import describe, session
from airflow_reindex.hooks import staging
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.connections import find_connection
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.hooks.staging_sweep import old_folders
from airflow_reindex.vectors import orphans as collection_orphans


def doctor(options: argparse.Namespace, out: TextIO) -> int:
    """List orphans; exit status 1 when action is needed."""
    found = _look(options)
    if options.json:
        print(json.dumps([{**asdict(one), "where": where} for where, one in found], indent=1), file=out)
    elif not found:
        print("nothing is left of any run, and no run is at work", file=out)
    else:
        _show(found, out)
    return int(any(one.wrong for _, one in found))


def repair(options: argparse.Namespace, out: TextIO) -> int:
    """Remove orphans that nobody can use, and what is abandoned; exit status 1 when action is still needed."""
    done: dict[str, None] = {}
    try:
        for name in _remove(options):
            done[name] = None
    except BaseException:
        # What is gone is named, whatever ends the rest; but for what was gone of the index that is being given up.
        if done:
            _tell(options, list(done), out)
        raise
    _tell(options, list(done), out)
    return int(bool(done) and not options.yes)


def _remove(options: argparse.Namespace) -> Iterator[str]:
    """The name of each thing that repair removes, once that is done; without ``--yes`` nothing is."""
    dry_run = not options.yes
    for name in options.give_up:
        yield from _abandon(options, name, dry_run=dry_run)
    for conn_id in _qserv_ids(options):
        with _czar(conn_id) as (connection, servers):
            found = director_orphans.find_orphans(connection, servers, conn_id, _timeout(), _runs())
            yield from director_orphans.remove_orphans(connection, servers, found, dry_run=dry_run)
    for folder in old_folders():
        if not dry_run:
            folder.remove()
        yield folder.url


def _tell(options: argparse.Namespace, names: list[str], out: TextIO) -> None:
    verb = "removed" if options.yes else "would remove"
    if options.json:
        print(json.dumps({verb.replace(" ", "_"): names}, indent=1), file=out)
    else:
        print("\n".join(f"{verb} {name}" for name in names) or "there is nothing to remove", file=out)


def _look(options: argparse.Namespace) -> list[tuple[str, Orphan]]:
    found: list[tuple[str, Orphan]] = []
    for conn_id in _qserv_ids(options):
        with _czar(conn_id) as (connection, servers):
            some = director_orphans.find_orphans(connection, servers, conn_id, _timeout(), _runs())
        found += [(conn_id, one) for one in some]
    for conn_id in _collection_ids(options):
        store = CollectionHook(conn_id).store
        try:
            found += [(conn_id, one) for one in collection_orphans.find_orphans(store, conn_id, _timeout())]
        finally:
            store.close()
    return found + [("staging", one) for one in _staged()]


def _abandon(options: argparse.Namespace, name: str, *, dry_run: bool) -> list[str]:
    """Abandon the index or the collection of that name."""
    indexes, collections = _qserv_ids(options), _collection_ids(options)
    dead = {where for where, one in _look(options) if one.wrong and one.target == name}
    for conn_id in [*indexes, *collections]:
        if conn_id in dead:
            abandon = _abandon_index if conn_id in indexes else _abandon_collection
            return abandon(conn_id, name, dry_run)
    raise RequestError(
        f"'{name}' is neither an index nor a collection whose build has died, as far as "
        f"{', '.join([*indexes, *collections]) or 'nothing'} was looked at. `airflow-reindex doctor` lists them."
    )


def _abandon_index(conn_id: str, name: str, dry_run: bool) -> list[str]:
    owner = Owner(config.deployment(), "airflow-reindex", "repair", socket.gethostname(), "")
    with _czar(conn_id) as (connection, servers):
        return director_orphans.abandon(connection, servers, name, owner, _timeout(), dry_run=dry_run)


def _abandon_collection(conn_id: str, name: str, dry_run: bool) -> list[str]:
    store = CollectionHook(conn_id).store
    try:
        return collection_orphans.abandon(store, name, _timeout(), dry_run=dry_run)
    finally:
        store.close()


def _qserv_ids(options: argparse.Namespace) -> list[str]:
    return _asked(options, "qserv", QservHook.default_conn_name)


def _collection_ids(options: argparse.Namespace) -> list[str]:
    return _asked(options, "collections", CollectionHook.default_conn_name)


def _asked(options: argparse.Namespace, name: str, default: str) -> list[str]:
    given: list[str] | None = getattr(options, name)
    if given is not None:
        return given
    # One kind that was asked for is enough.
    if options.qserv is not None or options.collections is not None:
        return []
    try:
        find_connection(default)
    except RequestError:
        return []
    return [default]


@contextmanager
def _czar(conn_id: str) -> Iterator[tuple[Any, Any]]:
    servers = QservHook(conn_id).servers
    try:
        with session(servers.czar) as connection:
            yield connection, servers
    except MySQLdb.Error as error:
        raise TransientError(f"{conn_id}: {describe(error)}") from error


def _timeout() -> float:
    return float(config.integer("claim_timeout"))


def _run_folders() -> Iterator[Folder]:
    for dag in staging.staging_root().folders():
        yield from (folder for folder in dag.folders() if is_run_folder(folder))


def _runs() -> dict[str, str]:
    """Return the run of each token, from the records of the runs' plans."""
    return {
        record.token: f"the run of {folder.url}"
        for folder in _run_folders()
        for record in task_records(folder)
        if record.task == "plan" and record.token
    }


def _staged() -> list[Orphan]:
    found = []
    for folder in _run_folders():
        report = folder.read_json(REPORT)
        ended = report is not None and report["status"] in (Status.DONE, Status.PENDING, Status.REFUSED)
        silent = time.time() - folder.newest()
        if ended and not folder.names("runs"):
            continue
        alive = silent <= _timeout()
        days = max(0.0, config.integer("staging_retention_days") - silent / 86_400)
        target = report["dest"] if report else ""
        found.append(
            Orphan(
                kind="staged run",
                name=folder.url,
                target=target,
                condition=OrphanState.AT_WORK if alive else OrphanState.ABANDONED,
                owner=folder.url.rsplit("/", 1)[1],
                silent=silent,
                advice="nothing: it was written to just now." if alive else
                f"clear the failed tasks of that run, and it does what is left; it is removed in {days:.1f} days, or "
                "when a run of the same target has taken it over.",
            )
        )  # fmt: skip
    return found


def _show(found: list[tuple[str, Orphan]], out: TextIO) -> None:
    console = Console(file=out)
    table = Table()
    for name in ("where", "what", "of", "state", "whose", "silent for"):
        table.add_column(name, overflow="fold")
    for where, one in found:
        silent = f"{one.silent:,.0f} s" if one.silent >= 0 else ""
        row = (where, f"{one.kind} {one.name}", one.target, one.condition.value, one.owner, silent)
        table.add_row(*map(_plain, row), style="" if one.wrong else "dim")
    console.print(table)
    for _, one in found:
        if one.wrong:
            console.print(f"{one.kind} {one.name}: {one.advice}", markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    # Names come from other systems, so markup in them is escaped.
    return text.replace("[", "\\[")
