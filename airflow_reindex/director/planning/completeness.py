"""Whether the catalog lists every chunk that the workers have: the index would silently lack the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import MySQLdb

from airflow_reindex.core.failures import Code, RequestError, TransientError
from airflow_reindex.director.model.catalog import DirectorTable
from airflow_reindex.director.model.inventory import Inventory
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.mysql.client import NO_SUCH_TABLE, Connection, code_of, is_transient, query, session
from airflow_reindex.director.mysql.identifiers import quote

log = logging.getLogger(__name__)

#: Every worker has a table for this chunk, without rows, for queries that concern no chunk.
DUMMY_CHUNK = 1_234_567_890
#: The number of chunk tables that a message names, and that one statement asks for rows.
QUOTED, TABLES_A_STATEMENT = 5, 50


@dataclass(frozen=True)
class Unlisted:
    """
    A chunk table with rows of which the catalog lists no replica.

    :param rows: as the worker's information_schema says, but at least 1.
    """

    chunk: int
    worker: str
    rows: int

    def __str__(self) -> str:
        return f"chunk {self.chunk} on worker '{self.worker}' (about {self.rows:,} rows)"


def check_complete(
    czar: Connection, servers: Servers, request: BuildRequest, table: DirectorTable, inventories: Inventory
) -> DirectorTable:
    """
    Compare the placement of chunks in Qserv's replication tables with what the workers have.

    A chunk that is listed on one worker while another one has a table of it, too, is no error: replicas are copied
    before they are listed, and removed after. Unlisted tables without rows do no harm either.

    :param request: says whether unlisted chunks are left out instead.
    :param table: the director table as the replication tables describe it.
    :param inventories: the chunk tables of each worker that answered.
    :returns: the table, with the chunks that are left out, and with what could not be checked.
    :raises RequestError: when chunks with rows are not listed, or none is listed although workers have chunk tables.
    :raises TransientError: when none is listed, and a worker that could have some does not answer.
    """
    silent = sorted(servers.workers.keys() - inventories.keys())
    strangers = _strangers(czar, servers)
    if not table.placement.keys() - {DUMMY_CHUNK}:
        _check_empty(servers, request, inventories, silent, strangers)
    found = _unlisted(servers, request, table, inventories)
    if found and not request.allow_unlisted_chunks:
        raise RequestError(
            f"the catalog ('{servers.replication_schema}.replica') lists no replica of {len(found):,} chunk tables of "
            f"'{request.database}.{request.director_table}' that have rows: {_first(found)}. The index would lack "
            "them: have the replication system scan its workers, or drop the tables if they are leftovers. With "
            "allow_unlisted_chunks=1 they are left out, and the report lists them."
        )
    if found:
        log.warning("left out, as the catalog lists no replica of them: %s", ", ".join(map(str, found)))
    unchecked = (
        *(f"whether worker '{w}', which did not answer, has chunks that the catalog does not list" for w in silent),
        *(f"whether worker '{w}', which the qserv connection does not name, has chunks that the catalog does not list"
          for w in strangers),
        *(f"whether worker '{w}' has no chunks, or the account may not read them"
          for w in sorted(inventories) if not inventories[w]),
    )  # fmt: skip
    for sentence in unchecked:
        log.warning("could not check %s", sentence)
    left_out = tuple((one.chunk, one.worker, one.rows) for one in found)
    return replace(table, unchecked=(*table.unchecked, *unchecked), unlisted=left_out)


def _check_empty(
    servers: Servers, request: BuildRequest, inventories: Inventory, silent: Sequence[str], strangers: Sequence[str]
) -> None:
    """Accept an empty catalog only if every worker confirms it."""
    where = f"the catalog ('{servers.replication_schema}.replica') lists no chunk of database '{request.database}'"
    name = f"'{request.director_table}'"
    tables = [
        Unlisted(chunk, worker, info.rows)
        for worker, known in sorted(inventories.items())
        for chunk, info in sorted(known.items())
        if chunk != DUMMY_CHUNK
    ]
    if tables:
        raise RequestError(
            f"{where}, but workers have {len(tables):,} chunk tables of {name}: {_first(tables)}. The index would be "
            "empty: have the replication system scan its workers, or drop the tables if they are leftovers."
        )
    if silent:
        raise TransientError(
            f"{where}, and worker '{silent[0]}', which may have some of {name}, does not answer: start it, or remove "
            "it from 'workers' in the qserv connection's extra if it is gone for good.",
            code=Code.CONNECTION,
        )
    if strangers:
        raise RequestError(
            f"{where}, and worker '{strangers[0]}', which may have some of {name}, cannot be asked: add it to "
            f"the qserv connection's extra as workers['{strangers[0]}'] = <MySQL connection id>."
        )


def _strangers(czar: Connection, servers: Servers) -> list[str]:
    """Workers that the replication system uses, but the connection does not name."""
    workers = query(
        czar,
        f"SELECT name FROM {quote(servers.replication_schema, 'config_worker')} WHERE is_enabled",  # noqa: S608 - names are quoted
    )
    return sorted({str(name) for (name,) in workers} - servers.workers.keys())


def _first(found: Sequence[Unlisted]) -> str:
    more = f" and {len(found) - QUOTED:,} more" if len(found) > QUOTED else ""
    return ", ".join(map(str, found[:QUOTED])) + more


def _unlisted(
    servers: Servers, request: BuildRequest, table: DirectorTable, inventories: Inventory
) -> tuple[Unlisted, ...]:
    result = []
    for worker, known in sorted(inventories.items()):
        extra = sorted(known.keys() - table.placement.keys())
        if not extra:
            continue
        with session(servers.workers[worker]) as connection:
            filled = _with_rows(connection, request, extra)
        # A damaged table may show none of the rows that it is known to have.
        filled |= {chunk for chunk in extra if known[chunk].exact and known[chunk].rows}
        result += [Unlisted(chunk, worker, max(1, known[chunk].rows)) for chunk in sorted(filled)]
    return tuple(result)


def _with_rows(connection: Connection, request: BuildRequest, chunks: Sequence[int]) -> set[int]:
    """The chunks whose tables have rows. The tables themselves are read: InnoDB's figures are estimates."""
    result: set[int] = set()
    for start in range(0, len(chunks), TABLES_A_STATEMENT):
        some = chunks[start : start + TABLES_A_STATEMENT]
        try:
            result |= _ask(connection, request, some)
        except MySQLdb.Error as error:
            if is_transient(error):
                raise
            # One of them cannot be read.
            result |= {chunk for chunk in some if _may_have_rows(connection, request, chunk)}
    return result


def _may_have_rows(connection: Connection, request: BuildRequest, chunk: int) -> bool:
    try:
        return bool(_ask(connection, request, [chunk]))
    except MySQLdb.Error as error:
        if is_transient(error):
            raise
        # A table that cannot be read may have rows, unless it was dropped meanwhile.
        return code_of(error) != NO_SUCH_TABLE


def _ask(connection: Connection, request: BuildRequest, chunks: Iterable[int]) -> set[int]:
    statement = " UNION ALL ".join(
        f"(SELECT {chunk} FROM {quote(request.database, f'{request.director_table}_{chunk}')} LIMIT 1)"  # noqa: S608 - numbers, and names that are quoted
        for chunk in chunks
    )
    return {int(chunk) for (chunk,) in query(connection, statement)}


def unlisted_notes(unlisted: Sequence[tuple[int, str, int]], most: int = 1_000) -> Mapping[str, object]:
    """
    The report's note on chunks that were left out; empty when there are none.

    :param most: the number of chunks to list: the note travels through Airflow's database.
    """
    if not unlisted:
        return {}
    listed = [{"chunk": chunk, "worker": worker, "rows": rows} for chunk, worker, rows in unlisted[:most]]
    return {"unlisted_in_all": len(unlisted), "unlisted_chunks": listed}
