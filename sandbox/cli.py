"""The command line of the sandbox: servers, made-up data, demonstrations, a deployment."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeAlias

import MySQLdb

from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate
from sandbox.servers.cluster import CATALOG_MODES, Sandbox
from sandbox.servers.datadir import SandboxError, write_private
from sandbox.servers.postgres import Postgres

#: What ``add_subparsers`` returns.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_DEMO_PARTS = ("director", "collection")
_SPEC_HELP = {
    "database": "name of the catalog's database; an older one of that name is replaced",
    "table": "name of the director table",
    "rows": "rows of all chunk tables together",
    "chunks": "number of chunks",
    "seed": "equal seeds give equal catalogs",
    "replicas": "copies of each chunk, on different workers",
    "key_column": "name of the director key",
    "key_type": "SQL type of the director key",
    "sub_chunk_type": "SQL type of the column subChunkId",
    "empty_chunks": "chunks with an empty table: a fraction if below 1, else a count",
    "unique": "register the key as not unique",
    "published": "register the catalog as not published",
    "missing": "fault: chunks that lack their table on one of their workers",
    "missing_everywhere": "the missing tables are missing on all workers of the chunk",
    "duplicates_within": "fault: rows with the key of another row of the same chunk",
    "duplicates_across": "fault: rows with the key of a row of another chunk",
    "null_keys": "fault: rows without a key",
    "no_sub_chunk": "fault: chunk tables without the column subChunkId",
}

#: The DAGs of the checkout that the sandbox lies in.
DAGS = Path(__file__).resolve().parents[1] / "dags"


def build_parser() -> argparse.ArgumentParser:
    """:returns: the parser of the command line"""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, default=Path(".sandbox"), metavar="FOLDER", help="the sandbox's folder (default: .sandbox)"
    )
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="A Qserv-like cluster of MariaDB servers on this machine, reachable from this machine only.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_up(commands, common)
    down = commands.add_parser(
        "down",
        parents=[common],
        help="stop the servers",
        description="Stop all servers; their data stay. It does not matter if some are dead already.",
    )
    down.add_argument("--destroy", action="store_true", help="remove all data of the sandbox, too")
    commands.add_parser(
        "status",
        parents=[common],
        help="show the servers",
        description="Show which servers run and where. The exit status is 1 if one of them does not.",
    )
    _add_catalog(commands.add_parser(
        "catalog",
        parents=[common],
        help="fill the servers with a made-up catalog",
        description="Create a partitioned sky catalog on the workers and register it in qservReplica on the czar.",
    ))  # fmt: skip
    commands.add_parser(
        "collection",
        parents=[common],
        help="start PostgreSQL with a vector collection of real texts",
        description="Start a private PostgreSQL with pgvector that stays until `down`, and index the descriptions of "
        "the installed Python distributions with the model words_64; readers follow the alias packages. Airflow's "
        "connections to it and to the models words_64, words_128 and words_256 are written to collections.env in the "
        "sandbox's folder.",
    )
    _add_demo(commands)
    _add_cluster(commands)
    return parser


def _add_up(commands: Commands, common: argparse.ArgumentParser) -> None:
    up = commands.add_parser(
        "up",
        parents=[common],
        help="start the servers",
        description="Start one czar and some workers, or those of them that do not run. They stay until `down`. "
        "Airflow's connections to them are written to connections.env in the sandbox's folder.",
    )
    up.add_argument("--workers", type=int, default=2, metavar="N", help="number of workers (default: 2)")
    up.add_argument(
        "--czar-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="MariaDB option of the czar, repeatable",
    )
    up.add_argument(
        "--catalog",
        choices=CATALOG_MODES,
        default=CATALOG_MODES[0],
        help="how the connections let chunks be found: in the replication system's tables (default), "
        "or by looking at the workers' tables",
    )


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="run both jobs with Airflow, prove the results, and let each fail once",
        description="director: start MariaDB servers, make a catalog of a million rows, build its index with Airflow, "
        "and compare the index with the catalog; then do the same with a broken catalog. collection: start "
        "PostgreSQL, index real texts with one embedding model, move them to another one under a search, let a move "
        "fail, and take the switch back. The servers are stopped in the end.",
    )
    demo.add_argument(
        "parts", nargs="*", choices=[[], *_DEMO_PARTS], default=[], metavar="PART",
        help=f"{' or '.join(_DEMO_PARTS)} (default: both)",
    )  # fmt: skip
    demo.add_argument("--state", type=Path, default=Path(".state"), metavar="FOLDER", help="default: .state")


def _add_cluster(commands: Commands) -> None:
    cluster = commands.add_parser(
        "cluster",
        help="run Airflow with Celery workers, until it is interrupted",
        description="Run an API server, a scheduler, a DAG processor, a triggerer and two Celery workers on this "
        "machine, with Redis, PostgreSQL, an S3 server, a Qserv with a catalog (sky.Object) and a collection "
        "(words_64). No two of them share a folder. Ctrl-C stops all; what they have stored is removed.",
    )
    cluster.add_argument("--state", type=Path, default=Path(".state"), metavar="FOLDER", help="default: .state")


def _demo(options: argparse.Namespace) -> int:
    from sandbox.demo import demo  # needs the extra `sandbox`

    parts = tuple(options.parts) or tuple(demo.PARTS)
    demo.run(options.state, DAGS, parts)
    return 0


def _cluster(options: argparse.Namespace) -> int:
    from sandbox.demo import demo_cluster  # needs the extra `sandbox`

    demo_cluster.run(options.state.absolute(), DAGS)
    return 0


def _add_catalog(parser: argparse.ArgumentParser) -> None:
    """One option for each field of the spec, with its default."""
    for field in fields(CatalogSpec):
        option, text = field.name.replace("_", "-"), _SPEC_HELP[field.name]
        if field.default is MISSING:
            raise TypeError(f"{field.name} has no default")
        if isinstance(field.default, bool):
            action, prefix = ("store_false", "not-") if field.default else ("store_true", "")
            parser.add_argument(
                f"--{prefix}{option}", dest=field.name, action=action, default=argparse.SUPPRESS, help=text
            )
        else:
            parser.add_argument(
                f"--{option}",
                metavar="X",
                type=type(field.default),
                default=field.default,
                help=f"{text} (default: {field.default})",
            )
    parser.add_argument(
        "--down",
        action="append",
        default=[],
        metavar="WORKER",
        help="kill this worker, e.g. worker-2, when the catalog is there; repeatable",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; those of the process if None
    :returns: exit status
    """
    options = build_parser().parse_args(arguments)
    commands = {"up": _up, "down": _down, "status": _status, "catalog": _catalog, "collection": _collection,
                "demo": _demo, "cluster": _cluster}  # fmt: skip
    try:
        return commands[options.command](options)
    except (SandboxError, ValueError, OSError, MySQLdb.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _up(options: argparse.Namespace) -> int:
    began = time.monotonic()
    czar_options = {}
    for text in options.czar_option:
        name, equals, value = text.partition("=")
        if not equals or not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"--czar-option needs NAME=VALUE, not {text!r}")
        czar_options[name] = value
    sandbox = Sandbox(options.root, workers=options.workers, czar_options=czar_options).up()
    variables = sandbox.connections(options.catalog)
    path = sandbox.root / "connections.env"
    _write_variables(path, variables)
    _print_servers(sandbox)
    print(f"up after {time.monotonic() - began:.1f} s; Airflow's connections: source {shlex.quote(str(path))}")
    return 0


def _write_variables(path: Path, variables: Mapping[str, str]) -> None:
    write_private(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))


def _collection(options: argparse.Namespace) -> int:
    from sandbox.demo import demo_collection  # needs the extra `sandbox`

    root = options.root.absolute()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = Postgres(root / "postgres").up()
    documents, vectors = demo_collection.make_collection(server)
    _write_variables(root / "collections.env", demo_collection.connections(server))
    print(f"words_64: {documents} texts, {vectors:,} vectors; readers follow the alias packages")
    print(f"Airflow's connections: source {shlex.quote(str(root / 'collections.env'))}")
    return 0


def _down(options: argparse.Namespace) -> int:
    folder = options.root / "postgres"
    found: list[Sandbox | Postgres] = [Postgres(folder)] if folder.is_dir() else []
    if not found or (options.root / "state.json").exists():
        found.append(Sandbox.load(options.root))
    for servers in found:
        if options.destroy:
            servers.destroy()
        else:
            servers.down()
    if options.destroy:
        (options.root / "collections.env").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            options.root.rmdir()
    print("servers stopped, data removed" if options.destroy else "servers stopped")
    return 0


def _status(options: argparse.Namespace) -> int:
    sandbox = Sandbox.load(options.root)
    _print_servers(sandbox)
    return 0 if all(status.running for status in sandbox.status().values()) else 1


def _print_servers(sandbox: Sandbox) -> None:
    for status in sandbox.status().values():
        state = f"running, process {status.pid}" if status.running else "not running"
        print(f"{status.name:10} 127.0.0.1:{status.port:<6} {state}")


def _catalog(options: argparse.Namespace) -> int:
    sandbox = Sandbox.load(options.root)
    for worker in options.down:
        if worker not in sandbox.workers:
            raise ValueError(f"there is no worker {worker}, only {', '.join(sandbox.workers)}")
    chosen = {field.name: getattr(options, field.name) for field in fields(CatalogSpec) if field.name in options}
    summary = generate(sandbox, CatalogSpec(**chosen), _show_progress if sys.stderr.isatty() else None)
    _print_summary(summary)
    for worker in options.down:
        sandbox.workers[worker].kill()
        print(f"{worker} was killed; `up` starts it again")
    return 0


def _show_progress(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"\r{done} of {total} chunks", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _print_summary(summary: CatalogSummary) -> None:
    spec, faults = summary.spec, summary.faults
    empty = sum(1 for count in summary.row_counts.values() if not count)
    print(
        f"{spec.database}.{spec.table}: {summary.rows:,} rows in {spec.chunks} chunks ({empty} empty, the largest with "
        f"{max(summary.row_counts.values()):,} rows), {spec.replicas} replica(s), {summary.overlap_rows:,} overlap "
        f"rows, {summary.seconds:.1f} s"
    )
    for chunk, workers in summary.missing_on.items():
        print(f"chunk {chunk} is missing on {', '.join(workers)}")
    for key, chunk in faults.duplicates_within.items():
        print(f"key {key} is twice in chunk {chunk}")
    for key, (one, other) in faults.duplicates_across.items():
        print(f"key {key} is in chunks {one} and {other}")
    for chunk, count in faults.null_keys.items():
        print(f"chunk {chunk} has {count} row(s) without a key")
    for chunk in faults.no_sub_chunk:
        print(f"chunk {chunk} has no column subChunkId")
