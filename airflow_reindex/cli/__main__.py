"""Command-line parser and dispatch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import TextIO

from airflow_reindex.cli.run_commands import add_run_commands
from airflow_reindex.core.failures import ReindexError


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--qserv", action="append", metavar="CONN_ID", help="a qserv connection to look at; repeatable (default: "
        "qserv_default, where there is one)",
    )  # fmt: skip
    where.add_argument(
        "--collections", action="append", metavar="CONN_ID", help="a connection of collections to look at; repeatable "
        "(default: collections_default, where there is one)",
    )  # fmt: skip
    where.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog="airflow-reindex",
        description="Look after the runs of airflow-reindex. It uses the connections and the configuration of the "
        "Airflow on this machine.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor",
        parents=[where],
        help="show what runs that died have left, and what to do about it",
        description="Show claims, shadow tables, staged runs and half-built collections: whose run made each, and the "
        "exact next command. Changes nothing. The exit status is 1 when something is to be done.",
    )
    repair = commands.add_parser(
        "repair",
        parents=[where],
        help="remove what nobody can use any more",
        description="Remove orphaned tables, and staged runs that are older than their retention. Without --yes it "
        "only says what it would do. The live indexes and the collections that readers follow are never touched.",
    )
    repair.add_argument(
        "--give-up", action="append", default=[], metavar="NAME", help="an index (database__table) or a collection "
        "whose build has died: remove what it has built, and its claim; repeatable",
    )  # fmt: skip
    repair.add_argument("--yes", action="store_true", help="do it")
    add_run_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    :param arguments: without the program's name; ``None``: the process's own.
    :returns: exit status: 0, 1 when action is needed, 2 when the command could not find out.
    """
    options = build_parser().parse_args(arguments)
    # Otherwise Airflow takes this for a task, which gets connections from its supervisor instead of the database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    out = sys.stdout
    # Airflow logs to what it takes for the standard output, which must stay readable for programs.
    with redirect_stdout(sys.stderr):
        logging.disable(logging.INFO)
        try:
            return _command(options.command)(options, out)
        except ReindexError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


def _command(name: str) -> Callable[[argparse.Namespace, TextIO], int]:
    """Return a command's function; imports what it needs of Airflow only now."""
    rooms = {"doctor": "maintenance", "repair": "maintenance", "rollback": "rollback", "estimate": "estimate"}
    found: Callable[[argparse.Namespace, TextIO], int] = getattr(
        import_module(f"airflow_reindex.cli.{rooms.get(name, 'runs')}"), name
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
