"""Checks before a build: the account's privileges, the way of loading files, and the space for them."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import MySQLdb
import numpy as np

from airflow_reindex.core.failures import Code, RequestError
from airflow_reindex.core.progress import duration
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model.costs import FAST
from airflow_reindex.director.model.runs import STAGED_BYTES
from airflow_reindex.director.model.tables import IndexTables, ensure_work_database
from airflow_reindex.director.mysql.bulk_load import BulkLoadTransport, explain_load_error, load_file, write_text
from airflow_reindex.director.mysql.client import Connection, drop_table, execute, query, table_names
from airflow_reindex.director.mysql.disk_space import INDEX_BYTES
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.types import Rows

INDEX_PRIVILEGES = ("SELECT", "INSERT", "CREATE", "DROP", "ALTER")
WORK_PRIVILEGES = (*INDEX_PRIVILEGES, "UPDATE", "DELETE")


def granted(grants: list[str], database: str) -> set[str] | None:
    """The privileges that SHOW GRANTS gives on a database; ``None`` when roles or unreadable lines hide them."""
    result: set[str] = set()
    if any(line.startswith("REVOKE ") for line in grants):
        # MySQL 8's partial revokes remove what a wider grant gives.
        return None
    for line in grants:
        match = re.match(r"GRANT (?P<what>.+?) ON (?P<database>`(?:[^`]|``)*`|\*)\.(?P<table>\*) TO ", line)
        if not match:
            if " ON " not in line:
                return None
            continue
        pattern = match["database"]
        pattern = pattern if pattern == "*" else pattern[1:-1].replace("``", "`")
        if pattern != "*" and not _like(database, pattern):
            continue
        result |= {part.strip().upper() for part in match["what"].split(",")}
    return result


def check_privileges(connection: Connection, tables: IndexTables) -> None:
    """Refuse an account that could not finish the build; the error has the statement that grants what is missing."""
    grants = [str(row[0]) for row in query(connection, "SHOW GRANTS")]
    for database, wanted in ((tables.database, INDEX_PRIVILEGES), (tables.work, WORK_PRIVILEGES)):
        have = granted(grants, database)
        if have is None or have & {"ALL", "ALL PRIVILEGES"}:
            continue
        missing = [privilege for privilege in wanted if privilege not in have]
        if missing:
            raise RequestError(
                f"the account of the qserv connection lacks {', '.join(missing)} on database '{database}': as an "
                f"administrator run GRANT {', '.join(wanted)} ON {quote(database)}.* TO <account>.",
                code=Code.ACCESS,
            )


def probe_load(
    connection: Connection, tables: IndexTables, transport: BulkLoadTransport, *, leave_nothing: bool
) -> None:
    """
    Actually load one row, in the working database, in the way that the build will use.

    :param leave_nothing: whether to drop the working database again if this call created it.
    :raises RequestError: when the server cannot load files this way; names the setting.
    """
    if not transport.local and transport.folder and not Path(transport.folder).is_dir():
        raise RequestError(
            f"'staging_dir' of the qserv connection, {transport.folder}, is not a folder on this machine; mount it on "
            "every Airflow worker, or use local=1."
        )
    created = ensure_work_database(connection, tables.work)
    token = uuid4().hex[:16]
    probe = tables.sql("probe", token)
    try:
        execute(connection, f"CREATE TABLE {probe} (`key` INT NOT NULL, `chunkId` INT, `subChunkId` INT) ENGINE=InnoDB")
        with transport.place() as folder:
            path, one = folder / f"reindex-probe-{token}.tsv", np.array([1], np.int32)
            try:
                write_text(Rows(one, one, one), path)
                rows = load_file(connection, transport, path, probe, "key")
            finally:
                path.unlink(missing_ok=True)
        if rows != 1:
            raise RequestError(f"a file of one row was loaded as {rows} rows")
    except MySQLdb.Error as error:
        explained = explain_load_error(error, local=transport.local)
        if explained is None:
            raise
        raise explained from error
    except OSError as error:
        raise RequestError(f"'staging_dir' of the qserv connection cannot be written: {error}") from error
    finally:
        drop_table(connection, probe)
        # Another plan may have claimed an index in it meanwhile.
        if created and leave_nothing and not table_names(connection, tables.work, ""):
            execute(connection, f"DROP DATABASE {quote(tables.work)}")


def estimate(rows: int, tasks: int, folder: Folder) -> dict[str, object]:
    """
    Expected sizes and times, for the log and the report of a dry run.

    :raises RequestError: when the staging folder's disk is too small.
    """
    need, free = rows * STAGED_BYTES, folder.free_bytes()
    if free is not None and need > free:
        raise RequestError(
            f"the staging folder {folder.url} has {free / 1e9:.1f} GB left, but about {need / 1e9:.1f} GB are needed "
            f"for {rows:,} rows: make room, or set [reindex] staging_url to a larger disk.",
            code=Code.DISK_FULL,
        )
    # Two connections of each kind, on machines like the measured one.
    seconds = 1e-6 * rows * (FAST.read_server + FAST.read_client + FAST.load_many + FAST.verify) / 2
    return {
        "rows": rows,
        "extract_tasks": tasks,
        "staging_bytes": need,
        "staging_bytes_free": free,
        "index_bytes": rows * INDEX_BYTES,
        "seconds": round(seconds),
        "time": f"about {duration(seconds)} on two cores, besides Airflow's own time",
    }


def _like(name: str, pattern: str) -> bool:
    expression = re.sub(
        r"\\([_%])|([_%])|([^_%\\]+|\\)",
        lambda m: re.escape(m[1]) if m[1] else ({"_": ".", "%": ".*"}[m[2]] if m[2] else re.escape(m[3])),
        pattern,
    )
    return re.fullmatch(expression, name) is not None
