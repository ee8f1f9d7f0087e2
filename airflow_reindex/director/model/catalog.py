"""The director table as the catalog describes it: from Qserv's replication tables, or from a scan of the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_reindex.core.failures import Code, RequestError
from airflow_reindex.director.model.inventory import Inventory
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.client import Connection, query, query_whole
from airflow_reindex.director.mysql.identifiers import MAX_IDENTIFIER, check_identifier, quote
from airflow_reindex.director.mysql.types import IntegerType

SUB_CHUNK_COLUMN = "subChunkId"
DEFAULT_KEY = "objectId"


@dataclass(frozen=True)
class DirectorTable:
    """
    A director table, and the workers that hold its chunks.

    :param key_column: the director key's name.
    :param unique: whether the key is unique.
    :param placement: the workers that hold each chunk, preferred ones first.
    :param unchecked: what this kind of catalog could not check, one sentence each.
    :param unlisted: chunk, worker and rows of chunk tables that are left out, because the catalog does not list them.
    """

    key_column: str
    key_type: IntegerType
    sub_chunk_type: IntegerType
    unique: bool
    placement: Mapping[int, tuple[str, ...]]
    unchecked: tuple[str, ...] = field(default=())
    unlisted: tuple[tuple[int, str, int], ...] = field(default=())


def director_tables(connection: Connection, schema: str, database: str) -> list[str]:
    """
    The sorted names of a catalog's published director tables.

    :raises RequestError: when there is no such catalog, or it has no director table.
    """
    rows = query(
        connection,
        f"SELECT `table` FROM {quote(schema, 'config_database_table')} WHERE BINARY `database` = %s "  # noqa: S608 - names are quoted
        "AND is_partitioned AND is_published AND COALESCE(director_table, '') = ''",
        (database,),
    )
    if not rows:
        raise RequestError(
            f"the database '{database}' has no published director table in '{schema}'.", code=Code.UNKNOWN_TABLE
        )
    return sorted(str(name) for (name,) in rows)


def from_replication(connection: Connection, schema: str, request: BuildRequest) -> DirectorTable:
    """
    Read a director table from the replication system's database (``qservReplica``).

    :raises RequestError: with the message of Qserv's own service, where it has one.
    """
    configured_key, unique = _configured_key(connection, schema, request)
    key = request.director_key or configured_key
    if not key:
        raise RequestError(
            f"director table has not been properly configured in database '{request.database}': no director key",
            code=Code.NO_DIRECTOR_KEY,
        )
    types = dict(
        query(
            connection,
            f"SELECT col_name, col_type FROM {quote(schema, 'config_database_table_schema')} "  # noqa: S608 - names are quoted
            "WHERE BINARY `database` = %s AND BINARY `table` = %s ORDER BY col_position",
            (request.database, request.director_table),
        )
    )
    if not types:
        raise RequestError(
            f"no schema found for director table '{request.director_table}' of database '{request.database}'",
            code=Code.NO_SCHEMA,
        )
    return DirectorTable(
        *_columns(types, str(key), request),
        unique=unique if request.unique_primary_key is None else request.unique_primary_key,
        placement=_placement(connection, schema, request),
    )


def _configured_key(connection: Connection, schema: str, request: BuildRequest) -> tuple[str | None, bool]:
    """The configured key column of a published director table, and whether its keys are unique."""
    database, table = request.database, request.director_table
    if not _matching(query(connection, f"SELECT `database` FROM {quote(schema, 'config_database')}"), database):  # noqa: S608 - names are quoted
        raise RequestError(
            f"no such database '{database}' in the replication system's configuration ('{schema}').",
            code=Code.UNKNOWN_DATABASE,
        )
    rows = query(
        connection,
        "SELECT `table`, is_partitioned, director_table, director_key, unique_primary_key, is_published "  # noqa: S608 - names are quoted
        f"FROM {quote(schema, 'config_database_table')} WHERE BINARY `database` = %s AND BINARY `table` = %s",
        (database, table),
    )
    if not rows:
        raise RequestError(f"no such table '{table}' found in the database '{database}'.", code=Code.UNKNOWN_TABLE)
    _, partitioned, parent, configured_key, unique, published = rows[0]
    if not partitioned or parent:
        raise RequestError(
            f"table '{table}' is not configured as a director table in database '{database}'",
            code=Code.NOT_DIRECTOR_TABLE,
        )
    if not published:
        raise RequestError(
            f"the director table '{table}' of the database '{database}' is not published.", code=Code.UNPUBLISHED_TABLE
        )
    return configured_key, bool(unique)


def from_scan(inventories: Inventory, columns: Mapping[str, str], request: BuildRequest) -> DirectorTable:
    """
    Make a director table from what the workers themselves have.

    :param inventories: the chunk tables of each worker that answered.
    :param columns: the columns of one chunk table, name to SQL type; empty when there is no chunk table.
    :returns: the director table; ``unchecked`` lists what the workers do not know.
    :raises RequestError: when no worker has a chunk table of that name, or the columns do not fit.
    """
    placement: dict[int, list[str]] = {}
    for worker in sorted(inventories):
        for chunk in inventories[worker]:
            placement.setdefault(chunk, []).append(worker)
    if not placement:
        raise RequestError(
            f"no such table '{request.director_table}' found in the database '{request.database}': no worker has a "
            f"chunk table '{request.director_table}_<chunk>', or the account may not read it (GRANT SELECT).",
            code=Code.UNKNOWN_TABLE,
        )
    empty = sorted(worker for worker, chunks in inventories.items() if not chunks)
    return DirectorTable(
        *_columns(columns, request.director_key or DEFAULT_KEY, request),
        unique=True if request.unique_primary_key is None else request.unique_primary_key,
        placement={chunk: tuple(workers) for chunk, workers in sorted(placement.items())},
        unchecked=(
            "that the table is a director table",
            "that the database and the table are published",
            "that every chunk of the catalog has a table",
            *(f"whether worker '{w}' has no chunks, or the account may not read them" for w in empty),
            "which column is the director key and whether it is unique"
            + (", beyond the params given" if request.director_key else " (assumed)"),
        ),
    )


def chunk_columns(connection: Connection, database: str, table: str) -> dict[str, str]:
    """The columns of a worker's chunk table: name to SQL type with nullability."""
    rows = query(
        connection,
        "SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
        (database, table),
    )
    return {name: kind + ("" if nullable == "YES" else " NOT NULL") for name, kind, nullable in rows}


def check_workers(table: DirectorTable, known: Mapping[str, object]) -> None:
    """Refuse a catalog with a chunk that has no replica on a worker known to the connection."""
    for chunk, workers in table.placement.items():
        if not any(worker in known for worker in workers):
            raise RequestError(
                f"chunk {chunk} is placed on worker '{workers[0]}', for which the qserv connection has no server: add "
                f"it to the connection's extra as workers['{workers[0]}'] = <MySQL connection id>."
            )


def _columns(types: Mapping[str, str], key: str, request: BuildRequest) -> tuple[str, IntegerType, IntegerType]:
    # Column names are case-insensitive in MySQL; the catalog's own spelling goes into the index.
    by_name = {str(name).lower(): (str(name), str(kind)) for name, kind in types.items()}
    if key.lower() not in by_name or SUB_CHUNK_COLUMN.lower() not in by_name:
        missing = key if key.lower() not in by_name else SUB_CHUNK_COLUMN
        raise RequestError(
            "column definitions for the director key or sub-chunk identifier columns are missing in the director "
            f"table schema for table '{request.director_table}' of database '{request.database}': '{missing}'",
            code=Code.MISSING_COLUMN,
        )
    name, kind = by_name[key.lower()]
    check_identifier(name, "director key")
    if name.lower() in ("chunkid", "subchunkid"):
        raise RequestError(f"the director key cannot be '{name}': the index has a column of that name already.")
    return (
        name,
        IntegerType.parse(kind, name),
        IntegerType.parse(by_name[SUB_CHUNK_COLUMN.lower()][1], SUB_CHUNK_COLUMN),
    )


def _placement(connection: Connection, schema: str, request: BuildRequest) -> dict[int, tuple[str, ...]]:
    enabled = {
        str(name): bool(is_enabled)
        for name, is_enabled in query(connection, f"SELECT name, is_enabled FROM {quote(schema, 'config_worker')}")  # noqa: S608 - names are quoted
    }
    replicas = f"FROM {quote(schema, 'replica')} WHERE BINARY `database` = %s"
    rows = query_whole(
        connection,
        f"SELECT chunk, worker {replicas} ORDER BY chunk, worker",
        f"SELECT COUNT(*) {replicas}",
        (request.database,),
    )
    placement: dict[int, list[str]] = {}
    for chunk, worker in rows:
        placement.setdefault(int(chunk), []).append(str(worker))
    longest = f"{request.director_table}_{max(placement, default=0)}"
    if len(longest) > MAX_IDENTIFIER:
        raise RequestError(f"MySQL table name limit of 64 characters has been exceeded for table '{longest}'.")
    # A disabled worker's replicas come last: they are read when no other replica can be.
    return {
        chunk: tuple(sorted(workers, key=lambda worker: (not enabled.get(worker, False), worker)))
        for chunk, workers in placement.items()
    }


def _matching(rows: list[tuple[object, ...]], name: str) -> bool:
    return any(value == name for (value,) in rows)
