"""The tables of one build on the czar's server: under construction, counted, and swapped in by one atomic rename."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import MySQLdb

from airflow_reindex.core.failures import ClaimLostError, Code, ConflictError, DataError, TransientError
from airflow_reindex.director.coordination.claim import lost
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import (
    LOCK_WAIT,
    NO_SUCH_TABLE,
    TABLE_EXISTS,
    Connection,
    code_of,
    drop_table,
    execute,
    query,
    table_exists,
    table_names,
    transaction,
)
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.types import Checksum

log = logging.getLogger(__name__)

#: A swap that waits for readers blocks new ones, so it waits briefly and tries again after a pause.
SWAP_WAIT_SECONDS, SWAP_TRIES, SWAP_PAUSE_SECONDS = 3, 40, 2.0

_MARKERS = (
    "(`range` INT NOT NULL, slice INT NOT NULL, `rows` BIGINT UNSIGNED NOT NULL, `keys` BIGINT UNSIGNED NOT NULL, "
    "mix BIGINT UNSIGNED NOT NULL, total BIGINT UNSIGNED NOT NULL, loaded_at DATETIME(6) NOT NULL, "
    "PRIMARY KEY (`range`, slice)) ENGINE=InnoDB"
)


@dataclass(frozen=True)
class IndexBuild:
    """
    A build at work on its tables, of which only the claim's holder knows the present names.

    :param czar: a connection to the czar's server; one thread uses it.
    :param token: the claim's token.
    :param split: the hash of the split whose rows the shadow table gets; empty before there is one.
    """

    czar: Connection
    tables: IndexTables
    token: str
    split: str = ""

    @property
    def shadow(self) -> str:
        """The table under construction, quoted."""
        return self.tables.sql("shadow", self.token, self.split)

    @property
    def marker_table(self) -> str:
        """The table with a row for each loaded slice, quoted."""
        return self.tables.sql("slices", self.token, self.split)

    @property
    def claim(self) -> str:
        """The claim's table, quoted."""
        return self.tables.sql("claim", self.token)

    @property
    def done(self) -> str:
        """What the swap renames the claim's table to, quoted."""
        return self.tables.sql("done", self.token)

    def fence(self) -> None:
        """
        Hold the claim for the rest of the open transaction: its table cannot be renamed until the commit.

        :raises ClaimLostError: when another run has taken over.
        """
        try:
            rows = query(self.czar, f"SELECT 1 FROM {self.claim}")  # noqa: S608 - names are quoted
        except MySQLdb.Error as error:
            if code_of(error) == NO_SUCH_TABLE:
                raise lost(self.tables) from error
            raise
        if not rows:
            raise lost(self.tables)

    def create(self, definition: str) -> None:
        """
        Create the shadow table and the table of its markers; existing ones stay, with what was loaded.

        :raises ClaimLostError: when another run has taken over.
        """
        for kind, columns in (("shadow", definition), ("slices", _MARKERS)):
            name = self.tables.name(kind, self.token, self.split)
            if table_exists(self.czar, self.tables.work, name):
                continue
            try:
                execute(self.czar, f"CREATE TABLE {quote(self.tables.work, name)} {columns}")
            except MySQLdb.Error as error:
                # The same task was delivered twice.
                if code_of(error) != TABLE_EXISTS:
                    raise
        try:
            with transaction(self.czar):
                self.fence()
        except ClaimLostError:
            # The run that took over has swept before these tables were created: no other run would drop them.
            for table in (self.shadow, self.marker_table):
                drop_table(self.czar, table)
            raise

    def markers(self) -> dict[tuple[int, int], Checksum]:
        """
        The checksums of the loaded slices, by range and slice number.

        :raises ClaimLostError: when the table of markers is gone.
        """
        try:
            rows = query(self.czar, f"SELECT `range`, slice, `rows`, `keys`, mix, total FROM {self.marker_table}")  # noqa: S608 - names are quoted
        except MySQLdb.Error as error:
            if code_of(error) == NO_SUCH_TABLE:
                raise lost(self.tables) from error
            raise
        return {(int(range_), int(slice_)): Checksum(*map(int, sums)) for range_, slice_, *sums in rows}

    def checksum(self, key_column: str, low: int | None, high: int | None) -> Checksum:
        """Have the server compute the checksum of the shadow rows with ``low <= key < high``; ``None``: no bound."""
        key = quote(key_column)
        conditions = [(f"{key} >= %s", low), (f"{key} < %s", high)]
        wanted = [(text, bound) for text, bound in conditions if bound is not None]
        where = f" WHERE {' AND '.join(text for text, _ in wanted)}" if wanted else ""
        statement = f"SELECT {Checksum.select(key)} FROM {self.shadow}{where}"  # noqa: S608 - names are quoted
        return Checksum.from_row(query(self.czar, statement, [bound for _, bound in wanted])[0])

    def finish_table(self) -> None:
        """
        Collect the statistics once, and turn their automatic upkeep on again.

        :raises DataError: when ANALYZE failed.
        """
        execute(self.czar, f"ALTER TABLE {self.shadow} STATS_AUTO_RECALC=DEFAULT")
        for *_, kind, text in query(self.czar, f"ANALYZE TABLE {self.shadow}"):
            if kind.lower() == "error":
                raise DataError(f"ANALYZE of the shadow table failed: {text}", code=Code.OTHER)

    def swap(self, check: Callable[[], None], *, rebuild: bool) -> None:
        """
        Put the shadow table in the index's place. Readers see the old index or the new one, never none.

        :param check: called before each attempt; raises when the work must stop.
        :param rebuild: whether an index that is there may be replaced.
        :raises ConflictError: when an index is there that may not be replaced.
        :raises ClaimLostError: when another run has taken over; nothing was renamed.
        :raises TransientError: when readers held the index for too long; nothing was renamed.
        """
        tables = self.tables
        execute(self.czar, f"SET SESSION lock_wait_timeout = {SWAP_WAIT_SECONDS}")
        for _ in range(SWAP_TRIES):
            check()
            moves = [f"{self.shadow} TO {tables.live}"]
            if table_exists(self.czar, tables.database, tables.index):
                if not rebuild:
                    raise ConflictError(tables.exists_message)
                moves.insert(0, f"{tables.live} TO {tables.sql('previous', self.token)}")
            moves.append(f"{self.claim} TO {self.done}")
            try:
                execute(self.czar, f"RENAME TABLE {', '.join(moves)}")
            except MySQLdb.Error as error:
                if code_of(error) == NO_SUCH_TABLE and not self.can_swap():
                    raise lost(tables) from error
                # The index was made, dropped or held by readers in between: look again.
                if code_of(error) not in (NO_SUCH_TABLE, TABLE_EXISTS, LOCK_WAIT):
                    raise
                log.info("the swap waits for readers of %s.%s: %s", tables.database, tables.index, error)
                time.sleep(SWAP_PAUSE_SECONDS)
            else:
                return
        raise TransientError(
            f"index '{tables.database}.{tables.index}' could not be swapped in {SWAP_TRIES} tries: long queries or "
            "open transactions read it (SHOW PROCESSLIST tells). Clear 'publish' when they have ended; nothing was "
            "changed."
        )

    def can_swap(self) -> bool:
        """Whether the build still has what the swap renames: its claim and its shadow table."""
        names = (self.tables.name("claim", self.token), self.tables.name("shadow", self.token, self.split))
        return all(table_exists(self.czar, self.tables.work, name) for name in names)

    def is_swapped(self) -> bool:
        """Whether the swap has happened: the claim was renamed by the very statement that swapped."""
        return table_exists(self.czar, self.tables.work, self.tables.name("done", self.token))

    def tidy(self, *, keep_previous: bool) -> str:
        """
        Drop what the swap left over; returns the quoted name of the previous index, where it is kept.

        The renamed claim, which marks the swap, stays until the report is written.
        """
        tables = self.tables
        drop_table(self.czar, self.marker_table)
        # Shadow and marker tables of earlier splits of this plan.
        for kind in ("shadow", "slices"):
            for name in table_names(self.czar, tables.work, tables.name(kind, self.token) + "_"):
                drop_table(self.czar, quote(tables.work, name))
        kept = ""
        # The index that a roll-back has replaced.
        replaced = table_names(self.czar, tables.work, tables.name("replaced"))
        for name in [*table_names(self.czar, tables.work, tables.name("previous") + "_"), *replaced]:
            if keep_previous and name == tables.name("previous", self.token):
                kept = quote(tables.work, name)
            else:
                drop_table(self.czar, quote(tables.work, name))
        return kept
