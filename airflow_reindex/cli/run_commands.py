"""Parsers of the commands that work on runs."""

from __future__ import annotations

import argparse
from typing import Any


def add_run_commands(commands: Any) -> None:
    """Add the commands to what ``add_subparsers`` returned."""
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("dag_id", metavar="DAG_ID", help="the run's DAG, such as build_director_index")
    run.add_argument("run_id", metavar="RUN_ID", nargs="?", help="its id; without it, or as 'latest', the newest run")
    sure = argparse.ArgumentParser(add_help=False)
    sure.add_argument("--yes", action="store_true", help="do it; without it only say what would be done")
    _status(commands, as_json)
    for name, text in (
        ("errors", "show the error map of a run: worker, chunk, kind and message"),
        ("failed", "show the failed items of a reindex, with their stages, and how to try them again"),
    ):
        _failures(commands.add_parser(name, parents=[run, as_json], help=text, description=f"{text.capitalize()}."))
    for name, text in (
        ("resume", "clear what has failed in a run that has ended, or was canceled; the rest stays done"),
        ("cancel", "end a run; what it has done stays, for a resume"),
        ("rollback", "put back the index before a build (keep_previous), or the collection before a switch"),
    ):
        commands.add_parser(name, parents=[run, sure, as_json], help=text, description=f"{text.capitalize()}.")
    _estimate(commands, as_json)


def _status(commands: Any, as_json: argparse.ArgumentParser) -> None:
    status = commands.add_parser(
        "status",
        parents=[as_json],
        help="show a run, or list the newest ones",
        description="Show a run: phases, rates, time that is left, workers, verification. Without a run the newest "
        "ones are listed. The exit status is 1 when the run has failed, was refused or canceled.",
    )
    status.add_argument("dag_id", metavar="DAG_ID", nargs="?", help="of this DAG only")
    status.add_argument("run_id", metavar="RUN_ID", nargs="?", help="the run to show; 'latest' for the newest")
    status.add_argument("--watch", action="store_true", help="go on showing it until it has ended")
    status.add_argument("--limit", type=int, default=20, help="how many runs are listed (default: 20)")


def _failures(parser: argparse.ArgumentParser) -> None:
    for name, text in (("kind", "of this kind"), ("worker", "of this worker or window"), ("grep", "with this text")):
        parser.add_argument(f"--{name}", default="", metavar="TEXT", help=f"only failures {text}")
    parser.add_argument("--offset", type=int, default=0, help="how many to leave out")
    parser.add_argument("--limit", type=int, default=100, help="how many to show (default: 100)")
    parser.add_argument("--by-kind", action="store_true", help="count the kinds instead")
    parser.add_argument("--csv", action="store_true", help="print all of them as CSV")


def _estimate(commands: Any, as_json: argparse.ArgumentParser) -> None:
    estimate = commands.add_parser(
        "estimate",
        parents=[as_json],
        help="check and plan a run, and say what it would take; nothing is changed",
        description="Do what a dry run does, without a run: check privileges and disks, plan, and estimate. Name "
        "--database and --director-table of a build, or --source and --dest of a reindex.",
    )
    estimate.add_argument("--database", help="the catalog's database")
    estimate.add_argument("--director-table", help="the director table")
    estimate.add_argument("--local", type=int, default=0, help="as the param of that name (default: 0)")
    estimate.add_argument("--qserv", metavar="CONN_ID", help="the qserv connection (default: qserv_default)")
    estimate.add_argument("--source", metavar="CONN_ID", help="the embedding_model connection of the source")
    estimate.add_argument("--dest", metavar="CONN_ID", help="that of the destination")
    estimate.add_argument("--loader", default="payload", help="where contents come from (default: payload)")
    estimate.add_argument("--collections", metavar="CONN_ID", help="the collections (default: collections_default)")
