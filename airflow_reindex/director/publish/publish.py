"""Proof of the shadow table, and its swap by one atomic rename that only the claim's holder can do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add

import MySQLdb

from airflow_reindex.core.failures import Code, ConflictError, DataError, TransientError
from airflow_reindex.core.progress import Progress
from airflow_reindex.director.coordination.claim import drop, lost
from airflow_reindex.director.coordination.throttle import Pace, Watch
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.runs import Manifest
from airflow_reindex.director.model.split import KeyRange, Split
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import (
    LOCK_WAIT,
    NO_SUCH_TABLE,
    TABLE_EXISTS,
    Connect,
    Connection,
    code_of,
    execute,
    query,
    session,
    table_names,
)
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.types import Checksum

log = logging.getLogger(__name__)

#: Connections that verify at the same time.
VERIFY_CONNECTIONS = 4
#: Slices that one statement verifies: a slow statement could not be throttled.
VERIFY_SLICES = 4
#: A swap that waits for readers blocks new ones, so it waits briefly and tries again after a pause.
SWAP_WAIT_SECONDS, SWAP_TRIES, SWAP_PAUSE_SECONDS = 3, 40, 2.0


@dataclass(frozen=True)
class Published:
    """
    A swap that is proven.

    :param rows: rows in the index.
    :param previous: where the replaced index is kept, quoted; empty when it is not.
    :param roll_back: the statement that restores it.
    """

    rows: int
    previous: str = ""
    roll_back: str = ""


def table_exists(connection: Connection, database: str, table: str) -> bool:
    """Whether a database has a table or view of this name."""
    return bool(
        query(
            connection,
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            (database, table),
        )
    )


def swap_done(connection: Connection, tables: IndexTables, token: str) -> bool:
    """Whether a run's swap has happened: the claim was renamed by the very statement that swapped."""
    return table_exists(connection, tables.work, tables.name("done", token))


def verify(
    connect: Connect,
    plan: Plan,
    tables: IndexTables,
    split: Split,
    staged: Sequence[Manifest],
    loaded: Mapping[tuple[int, int], Checksum],
    watch: Watch,
) -> int:
    """
    Prove that the shadow table holds what left the workers: extracted = loaded, and loaded = found, by key range.

    :param staged: the manifests, with the checksums of the chunks as they were read.
    :param loaded: the checksums of the slices as they were loaded.
    :returns: the number of rows in the table.
    :raises DataError: when something differs, with the range in which it does.
    """
    extracted = reduce(add, (c.checksum for manifest in staged for c in manifest.chunks), Checksum())
    total = reduce(add, loaded.values(), Checksum())
    if extracted != total:
        raise DataError(
            f"{extracted.rows} rows were extracted, but {total.rows} were loaded (or their contents differ): load "
            "tasks are missing or the staging folder was changed. Clear the failed load tasks, or this run from "
            "its task 'plan' on.",
            code=Code.INDEX_DIFFERS,
        )
    progress = Progress(log.info, "verify", total.rows)

    def one(key_range: KeyRange) -> None:
        with session(connect) as connection:
            pace = Pace(watch)
            for first in range(0, len(key_range.bounds) - 1, VERIFY_SLICES):
                watch.check()
                bounds = key_range.bounds[first : first + VERIFY_SLICES + 1]
                slices = range(first, first + len(bounds) - 1)
                expected = reduce(add, (loaded.get((key_range.number, i), Checksum()) for i in slices))
                found = checksum(connection, plan, tables, split.build, bounds[0], bounds[-1])
                if found != expected:
                    raise DataError(
                        f"{key_range.label}: {expected.rows} rows were loaded, but {found.rows} are in the shadow "
                        "table (or their contents differ). Clear this run from its task 'plan' on.",
                        code=Code.INDEX_DIFFERS,
                    )
                progress.add(found.rows)
                pace.add(found.rows)

    connections = min(VERIFY_CONNECTIONS, watch.limits.connections or VERIFY_CONNECTIONS)
    with ThreadPoolExecutor(connections, thread_name_prefix="reindex-verify") as pool:
        for _ in pool.map(one, split.ranges):
            pass
    progress.finish("counts and checksums agree")
    return total.rows


def checksum(
    connection: Connection, plan: Plan, tables: IndexTables, build: str, low: int | None, high: int | None
) -> Checksum:
    """Have the server compute the checksum of the shadow rows with ``low <= key < high``; ``None`` for no bound."""
    key = quote(plan.key_column)
    conditions = [(f"{key} >= %s", low), (f"{key} < %s", high)]
    wanted = [(text, bound) for text, bound in conditions if bound is not None]
    where = f" WHERE {' AND '.join(text for text, _ in wanted)}" if wanted else ""
    statement = f"SELECT {Checksum.select(key)} FROM {tables.sql('shadow', plan.token, build)}{where}"  # noqa: S608 - names are quoted
    return Checksum.from_row(query(connection, statement, [bound for _, bound in wanted])[0])


def finish_table(connection: Connection, tables: IndexTables, token: str, build: str) -> None:
    """
    Collect the statistics once, and turn their automatic upkeep on again.

    :raises DataError: when ANALYZE failed.
    """
    shadow = tables.sql("shadow", token, build)
    execute(connection, f"ALTER TABLE {shadow} STATS_AUTO_RECALC=DEFAULT")
    for *_, kind, text in query(connection, f"ANALYZE TABLE {shadow}"):
        if kind.lower() == "error":
            raise DataError(f"ANALYZE of the shadow table failed: {text}")


def swap(connection: Connection, plan: Plan, tables: IndexTables, build: str, check: Callable[[], None]) -> None:
    """
    Put the shadow table in the index's place. Readers see the old index or the new one, never none.

    :param check: called before each attempt; raises when the work must stop.
    :raises ConflictError: when an index is there that this run may not replace.
    :raises ClaimLostError: when another run has taken over; nothing was renamed.
    :raises TransientError: when readers held the index for too long; nothing was renamed.
    """
    token = plan.token
    execute(connection, f"SET SESSION lock_wait_timeout = {SWAP_WAIT_SECONDS}")
    for _ in range(SWAP_TRIES):
        check()
        moves = [f"{tables.sql('shadow', token, build)} TO {tables.live}"]
        if table_exists(connection, tables.database, tables.index):
            if not plan.request.rebuild:
                raise ConflictError(exists_message(tables))
            moves.insert(0, f"{tables.live} TO {tables.sql('previous', token)}")
        moves.append(f"{tables.sql('claim', token)} TO {tables.sql('done', token)}")
        try:
            execute(connection, f"RENAME TABLE {', '.join(moves)}")
        except MySQLdb.Error as error:
            if code_of(error) == NO_SUCH_TABLE and not swap_possible(connection, tables, token, build):
                raise lost(tables) from error
            # The index was made, dropped or held by readers in between: look again.
            if code_of(error) not in (NO_SUCH_TABLE, TABLE_EXISTS, LOCK_WAIT):
                raise
            log.info("the swap waits for readers of %s.%s: %s", tables.database, tables.index, error)
            time.sleep(SWAP_PAUSE_SECONDS)
        else:
            return
    raise TransientError(
        f"index '{tables.database}.{tables.index}' could not be swapped in {SWAP_TRIES} tries: long queries or open "
        "transactions read it (SHOW PROCESSLIST tells). Clear 'publish' when they have ended; nothing was changed."
    )


def swap_possible(connection: Connection, tables: IndexTables, token: str, build: str) -> bool:
    """Whether this run still has what the swap renames: its claim and its shadow table."""
    names = (tables.name("claim", token), tables.name("shadow", token, build))
    return all(table_exists(connection, tables.work, name) for name in names)


def tidy(connection: Connection, plan: Plan, tables: IndexTables, build: str) -> str:
    """
    Drop what the swap left over; returns the quoted name of the previous index, where it is kept.

    The renamed claim, which marks the swap, stays until the report is written.
    """
    drop(connection, tables.sql("slices", plan.token, build))
    # Of earlier splits.
    for kind in ("shadow", "slices"):
        for name in table_names(connection, tables.work, tables.name(kind, plan.token) + "_"):
            drop(connection, quote(tables.work, name))
    own = tables.name("previous", plan.token)
    kept = ""
    # The index that a roll-back has replaced.
    replaced = table_names(connection, tables.work, tables.name("replaced"))
    for name in [*table_names(connection, tables.work, tables.name("previous") + "_"), *replaced]:
        if plan.request.keep_previous and name == own:
            kept = quote(tables.work, name)
        else:
            drop(connection, quote(tables.work, name))
    return kept


def exists_message(tables: IndexTables) -> str:
    """The message for an index that may not be replaced, in Qserv's words, and what to do."""
    return (
        f"Table '{tables.index}' already exists in '{tables.database}', errno: 1050. Use rebuild=1 to replace it: "
        "readers keep the present index until the new one is complete."
    )


def roll_back_statement(tables: IndexTables, previous: str) -> str:
    """The one statement for the czar's server that puts the previous index back, whose name is quoted."""
    aside = tables.sql("replaced")
    return f"RENAME TABLE {tables.live} TO {aside}, {previous} TO {tables.live}".replace("%%", "%")
