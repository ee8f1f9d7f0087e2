"""The command `rollback`: restores the index before a build, or the collection before a switch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, TextIO

import MySQLdb

from airflow_reindex import metadata
from airflow_reindex.cli.runs import find, say
from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.core.task_records import REPORT
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import describe, execute, session
from airflow_reindex.director.publish.verification import roll_back_statement
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.monitoring.run_info import DIRECTOR

#: The DAG that rolls switches back.
_DAG = "rollback_collection"


def rollback(options: argparse.Namespace, out: TextIO) -> int:
    """
    Roll back the result of a run.

    :raises RequestError: there is nothing to roll back.
    """
    info = find(options)
    report = run_folder(info.dag_id, info.run_id).read_json(REPORT)
    notes = report["notes"] if report and report["status"] == "done" else {}
    if info.kind == DIRECTOR:
        return _index(notes, info.run_id, options, out)
    switched = notes.get("switch")
    if not switched:
        raise RequestError(f"run '{info.run_id}' has switched no readers over: there is nothing to take back.")
    conf = {"alias": switched["alias"], "collection_conn_id": notes["collection"]["conn_id"]}
    run_id = metadata.trigger(_DAG, conf) if options.yes else None
    done = f"run '{run_id}' of the DAG '{_DAG}' takes the switch of alias '{conf['alias']}' back"
    say(options, out, {"run_id": run_id, **conf}, done, f"would run the DAG '{_DAG}' with {conf}")
    return 0


def _index(notes: Mapping[str, Any], run_id: str, options: argparse.Namespace, out: TextIO) -> int:
    if not notes.get("roll_back"):
        raise RequestError(
            f"run '{run_id}' has kept no previous index: builds with keep_previous=true do. Nothing can be taken back."
        )
    index = notes["index"]
    servers = QservHook(index["qserv_conn_id"]).servers
    tables = IndexTables(servers.work_database, servers.index_database, index["table"])
    statement = roll_back_statement(tables, notes["previous"])
    # The report is in a folder that others may write to: its statement is only compared, never run.
    if statement != notes["roll_back"]:
        raise RequestError(f"the report of run '{run_id}' names other tables than the connection does: {statement}")
    if options.yes:
        _execute(servers, statement)
    done = f"readers of '{index['table']}' have the index before run '{run_id}' again"
    say(options, out, {"statement": statement}, done, f"would run {statement}")
    return 0


def _execute(servers: Servers, statement: str) -> None:
    try:
        with session(servers.czar) as czar:
            execute(czar, statement.replace("%", "%%"))
    except MySQLdb.Error as error:
        raise TransientError(
            f"the index stays as it is: {describe(error)}. A later build may have removed the previous index."
        ) from error
