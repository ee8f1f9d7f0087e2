"""The command `estimate`: checks and plan of a dry run; nothing is changed."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Callable
from typing import Any, TextIO
from uuid import uuid4

import MySQLdb
from rich.console import Console

from airflow_reindex import config, metadata
from airflow_reindex.cli import show
from airflow_reindex.core.claims import Contender, Owner
from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import describe
from airflow_reindex.director.planning.planning import RunContext, make_plan
from airflow_reindex.hooks import staging
from airflow_reindex.hooks.collection import CollectionHook
from airflow_reindex.hooks.qserv import QservHook


def estimate(options: argparse.Namespace, out: TextIO) -> int:
    """
    Estimate a build or a reindex.

    :raises RequestError: the request could not be run.
    """
    make: Callable[[argparse.Namespace, Folder, Owner], dict[str, Any]]
    if options.database and options.director_table:
        make = _build
    elif options.source and options.dest:
        make = _reindex
    else:
        raise RequestError("name --database and --director-table of a build, or --source and --dest of a reindex.")
    folder = staging.staging_root().child("estimates", uuid4().hex)
    owner = Owner(config.deployment(), "airflow-reindex", "estimate", socket.gethostname(), folder.url)
    try:
        figures = make(options, folder, owner)
    finally:
        folder.remove()
    if options.json:
        print(json.dumps(figures, indent=1), file=out)
    else:
        rows = ((name.replace("_", " "), _figure(value)) for name, value in figures.items() if value is not None)
        Console(file=out).print(show.table(("what", "how much"), rows))
    return 0


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _build(options: argparse.Namespace, folder: Folder, owner: Owner) -> dict[str, Any]:
    conn_id = options.qserv or QservHook.default_conn_name
    request = BuildRequest.parse(
        {
            "database": options.database, "director_table": options.director_table, "rebuild": 1, "dry_run": 1,
            "local": options.local,
        }
    )  # fmt: skip
    run = RunContext(
        owner=owner,
        conn_id=conn_id,
        state_of=metadata.state_of,
        claim_timeout=config.integer("claim_timeout"),
        rows_per_task=config.integer("rows_per_task"),
        memory=config.task_memory(),
        open_folder=staging.former_folder,
    )
    try:
        plan, figures = make_plan(QservHook(conn_id).servers, request, folder, run)
    except MySQLdb.Error as error:
        raise TransientError(f"{conn_id}: {describe(error)}") from error
    return {"chunks": plan.chunks, **figures}


def _reindex(options: argparse.Namespace, folder: Folder, owner: Owner) -> dict[str, Any]:
    from airflow_reindex.hooks.reindex_context import open_reindex
    from airflow_reindex.vectors.model.request import ReindexRequest
    from airflow_reindex.vectors.planning.planning import make_plan as plan_reindex

    conn_id = options.collections or CollectionHook.default_conn_name
    request = ReindexRequest.parse(
        {
            "source_embedding_model_id": options.source, "dest_embedding_model_id": options.dest,
            "loader": options.loader, "dry_run": 1,
        }
    )  # fmt: skip
    contender = Contender(
        owner=owner, state_of=metadata.state_of, claim_timeout=config.integer("claim_timeout"), force=False
    )
    with open_reindex(request, conn_id) as context:
        _, figures = plan_reindex(context, request, folder, contender, conn_id=conn_id)
    return figures
