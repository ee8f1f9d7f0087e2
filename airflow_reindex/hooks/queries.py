"""Query sets for the comparison of models: from a file, or from a table behind a connection."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.staging import Folder
from airflow_reindex.hooks.databases import database

#: More queries add no information, and each costs two embeddings and two searches.
MOST = 1000


def read_queries(name: str, definitions: Mapping[str, Any]) -> list[str]:
    """
    Read a set of at most 1000 distinct queries, in order.

    :param definitions: by name: ``{"path": ...}``, a file with one query per line, or ``{"conn_id": ..., "sql": ...}``,
        whose first column is the query.
    :raises RequestError: the set does not exist, is malformed, or is empty.
    """
    found = definitions.get(name)
    if not isinstance(found, Mapping):
        known = ", ".join(sorted(definitions)) or "none"
        raise RequestError(f"there is no query set '{name}'; this deployment defines: {known} ([reindex] query_sets).")
    if found.keys() == {"path"}:
        lines = _file(name, str(found["path"]))
    elif found.keys() == {"conn_id", "sql"}:
        lines = _table(str(found["conn_id"]), str(found["sql"]))
    else:
        raise RequestError(f"the query set '{name}' needs either 'path', or 'conn_id' and 'sql'.")
    queries = list(dict.fromkeys(line.strip() for line in lines if line.strip()))[:MOST]
    if not queries:
        raise RequestError(f"the query set '{name}' has no queries.")
    return queries


def _file(name: str, path: str) -> list[str]:
    where, _, file = path.rpartition("/")
    try:
        with Folder.at(where or ".").open(file) as stream:
            return stream.read().decode().splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"the file of the query set '{name}' cannot be read: {error}") from error


def _table(conn_id: str, sql: str) -> list[str]:
    _, connect = database(conn_id)
    with closing(connect()) as reached, closing(reached.cursor()) as cursor:
        cursor.execute(sql)
        rows = [next(iter(row.values())) if isinstance(row, Mapping) else row[0] for row in cursor.fetchall()]
    return [str(value) for value in rows if value is not None]
