"""A key range into the shadow table, slice by slice: a slice and its marker commit together, so none comes twice."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import MySQLdb
import pyarrow as pa
from pyarrow import csv

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.core.identifiers import quote
from airflow_reindex.core.progress import Progress
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.claim import fence, lost
from airflow_reindex.director.columns import Checksum, Rows
from airflow_reindex.director.merge import Duplicates, merged
from airflow_reindex.director.plan import Plan
from airflow_reindex.director.split import KeyRange
from airflow_reindex.director.sql import (
    DUPLICATE_KEY,
    NO_SUCH_TABLE,
    TABLE_EXISTS,
    Connection,
    code_of,
    describe,
    execute,
    query,
    transaction,
)
from airflow_reindex.director.tables import IndexTables

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inbox:
    """
    How files reach the czar's server.

    :param local: whether the client sends them (``LOAD DATA LOCAL INFILE``); else the server reads them by itself.
    :param folder: where tasks write them; ``None``: a temporary folder of the task's machine (``local`` only).
    :param server_folder: the same folder as the server sees it.
    """

    local: bool
    folder: str | None = None
    server_folder: str | None = None

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """
        A place for one file, which is gone when the block ends.

        :param name: the file's name; made by this package.
        :yields: the path at which to write it.
        """
        if self.local or self.folder is None:
            with tempfile.TemporaryDirectory(prefix="airflow-reindex-") as folder:
                yield Path(folder) / name
            return
        path = Path(self.folder) / name
        try:
            yield path
        except FileNotFoundError as error:
            raise TransientError(
                f"the file {path} was removed while this task worked with it: another run has taken over the index, or "
                "somebody tidied up. A retry tells which."
            ) from error
        finally:
            path.unlink(missing_ok=True)

    def sweep(self, mark: str, keep: str = "") -> None:
        """
        Remove the files that killed tasks left in the shared folder.

        :param mark: how the names of the files go on after ``reindex-``: the index's mark, and the token of one build.
        :param keep: a token whose files stay.
        """
        if self.local or self.folder is None:
            return
        for path in Path(self.folder).glob(f"reindex-{mark}-*.tsv"):
            if not keep or keep not in path.name:
                # Another run may sweep at the same time, or the file be another account's.
                with suppress(OSError):
                    path.unlink()

    def seen_by_server(self, path: Path) -> str:
        """
        The path to put into the statement.

        :param path: where the task wrote the file.
        :returns: the client's path for ``local``, else the server's.
        """
        return str(path) if self.local else str(Path(self.server_folder or self.folder or "") / path.name)


@dataclass
class Loaded:
    """
    What a mapped load task did.

    :param rows: rows of the range that are in the shadow table now.
    :param new_rows: those of them that this try loaded.
    :param duplicates: what to say of each chunk with duplicate keys; empty when all is well.
    """

    rows: int = 0
    new_rows: int = 0
    duplicates: dict[int, str] = field(default_factory=dict)


def create_tables(connection: Connection, tables: IndexTables, token: str, build: str, definition: str) -> None:
    """
    Create the shadow table and the table of its markers; those that exist stay, with what was loaded.

    :param connection: the czar's server.
    :param tables: the index.
    :param token: the claim.
    :param build: the split's build.
    :param definition: the index's columns and keys.
    """
    markers = (
        "(`range` INT NOT NULL, slice INT NOT NULL, `rows` BIGINT UNSIGNED NOT NULL, `keys` BIGINT UNSIGNED NOT NULL, "
        "mix BIGINT UNSIGNED NOT NULL, loaded_at DATETIME(6) NOT NULL, PRIMARY KEY (`range`, slice)) ENGINE=InnoDB"
    )
    there = {
        row[0]
        for row in query(
            connection, "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s", (tables.work,)
        )
    }
    for kind, columns in (("shadow", definition), ("slices", markers)):
        if tables.name(kind, token, build) in there:
            continue
        try:
            execute(connection, f"CREATE TABLE {tables.sql(kind, token, build)} {columns}")
        except MySQLdb.Error as error:
            # The same task was delivered twice.
            if code_of(error) != TABLE_EXISTS:
                raise


def markers(connection: Connection, tables: IndexTables, token: str, build: str) -> dict[tuple[int, int], Checksum]:
    """
    The slices that are loaded.

    :param connection: the czar's server.
    :param tables: the index.
    :param token: the claim.
    :param build: the split's build.
    :returns: the checksum of each slice, by range and slice number.
    """
    try:
        rows = query(
            connection, f"SELECT `range`, slice, `rows`, `keys`, mix FROM {tables.sql('slices', token, build)}"
        )
    except MySQLdb.Error as error:
        if code_of(error) == NO_SUCH_TABLE:
            raise lost(tables) from error
        raise
    return {(int(number), int(piece)): Checksum(*map(int, sums)) for number, piece, *sums in rows}


class RangeLoader:
    """
    Loads one key range.

    :param connection: to the czar's server, made with ``local_infile`` where the inbox is local.
    :param plan: the plan.
    :param tables: the index.
    :param build: the split's build.
    :param inbox: how files reach the server.
    :param check: called before each slice; raises when the work must stop.
    """

    def __init__(
        self,
        connection: Connection,
        plan: Plan,
        tables: IndexTables,
        build: str,
        inbox: Inbox,
        check: Callable[[], None],
    ) -> None:
        self._connection, self._plan, self._tables, self._build = connection, plan, tables, build
        self._inbox, self._check = inbox, check
        self._duplicates = Duplicates()

    def run(self, folder: Folder, files: Sequence[str], key_range: KeyRange) -> Loaded:
        """
        Merge the range's rows and load what is not loaded yet. The next slice is merged while the server loads one.

        After the first duplicate key of a unique index nothing more is loaded, but the rest is still looked through,
        so that all duplicates are known at once.

        :param folder: the run's folder.
        :param files: the sorted files.
        :param key_range: the range.
        :returns: what was done.
        :raises ClaimLostError: another run has taken over.
        :raises DataError: the server would have changed or skipped rows.
        """
        done = markers(self._connection, self._tables, self._plan.token, self._build)
        result = Loaded()
        progress = Progress(log.info, f"load {key_range.label}", key_range.rows)
        slices = merged(folder, files, key_range)
        with ThreadPoolExecutor(1, thread_name_prefix="reindex-merge") as ahead:
            coming = ahead.submit(next, slices)
            for number in range(len(key_range.slices())):
                rows = coming.result()
                if number + 1 < len(key_range.slices()):
                    coming = ahead.submit(next, slices)
                self._check()
                if rows is None:
                    continue
                if self._plan.unique:
                    self._duplicates.look(rows)
                if not self._duplicates:
                    result.rows += len(rows)
                    result.new_rows += self._slice(key_range.number, number, rows, done)
                progress.add(len(rows), f"slice {number + 1} of {len(key_range.slices())}")
        result.duplicates = self._duplicates.messages()
        progress.finish("duplicate keys found: nothing more was loaded" if result.duplicates else "")
        return result

    def _slice(self, key_range: int, number: int, rows: Rows, done: dict[tuple[int, int], Checksum]) -> int:
        checksum = Checksum.of(rows)
        known = done.get((key_range, number))
        if known is not None:
            if known != checksum:
                raise DataError(
                    f"slice {number} of range {key_range} was loaded with {known.rows} rows, but the staged runs now "
                    f"give {len(rows)}: the staging folder was changed. Clear this run from its task 'plan' on."
                )
            return 0
        with self._inbox.file(
            f"reindex-{self._tables.mark}-{self._plan.token}-{self._build}-{key_range}-{number}.tsv"
        ) as path:
            write_text(rows, path)
            try:
                self._load(path, key_range, number, checksum)
            except MySQLdb.Error as error:
                if code_of(error) == NO_SUCH_TABLE:
                    raise lost(self._tables) from error
                if code_of(error) == DUPLICATE_KEY and self._other_was_faster(key_range, number, checksum):
                    return 0
                explained = explain_load_error(error, local=self._inbox.local)
                if explained is None:
                    raise
                raise explained from error
        return len(rows)

    def _other_was_faster(self, key_range: int, number: int, checksum: Checksum) -> bool:
        """Whether the same task was delivered twice, and the other one has loaded the slice."""
        done = markers(self._connection, self._tables, self._plan.token, self._build)
        return done.get((key_range, number)) == checksum

    def _load(self, path: Path, key_range: int, number: int, checksum: Checksum) -> None:
        shadow = self._tables.sql("shadow", self._plan.token, self._build)
        with transaction(self._connection):
            fence(self._connection, self._tables, self._plan.token)
            execute(
                self._connection,
                f"INSERT INTO {self._tables.sql('slices', self._plan.token, self._build)} VALUES "
                "(%s, %s, %s, %s, %s, NOW(6))",
                (key_range, number, checksum.rows, checksum.keys, checksum.mix),
            )
            affected = load_file(self._connection, self._inbox, path, shadow, self._plan.key_column)
            if affected != checksum.rows:
                raise DataError(
                    f"the server took {affected} of {checksum.rows} rows of slice {number} of range {key_range}; "
                    "the slice was rolled back"
                )


def write_text(rows: Rows, path: Path) -> None:
    """
    Write rows as the tab-separated text that LOAD DATA reads.

    :param rows: the rows.
    :param path: the file; readable by all, as the server runs under another account.
    """
    table = pa.table({"key": rows.key, "chunk": rows.chunk, "sub_chunk": rows.sub_chunk})
    csv.write_csv(table, path, csv.WriteOptions(include_header=False, delimiter="\t", batch_size=65_536))
    os.chmod(path, 0o644)  # noqa: PTH101


def load_file(connection: Connection, inbox: Inbox, path: Path, table: str, key: str) -> int:
    """
    Load one complete file.

    :param connection: to the czar's server.
    :param inbox: how the file reaches it.
    :param path: the file, as the task sees it.
    :param table: the table, quoted.
    :param key: the key column.
    :returns: the server's count of rows.
    :raises DataError: the server gave a warning; with LOCAL that is how it reports skipped and changed rows.
    """
    local = "LOCAL " if inbox.local else ""
    return execute(
        connection,
        f"LOAD DATA {local}INFILE %s INTO TABLE {table} CHARACTER SET latin1 FIELDS TERMINATED BY '\\t' "
        f"ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({quote(key)}, `chunkId`, `subChunkId`)",
        (inbox.seen_by_server(path),),
    )


def explain_load_error(error: MySQLdb.Error, *, local: bool) -> RequestError | None:
    """
    Say which setting of the server forbids the load, and what to use instead.

    :param error: the server's error.
    :param local: whether LOAD DATA LOCAL was used.
    :returns: the error to raise for a matter of settings, else ``None``.
    """
    code, text = code_of(error), describe(error)
    if local and code in (1148, 3948, 4166, 2068):
        return RequestError(
            f"LOAD DATA LOCAL INFILE is switched off: set local_infile=1 on the czar's server, or use local=0 ({text})"
        )
    if not local and code == 1045:
        return RequestError(
            f"the account lacks the FILE privilege that LOAD DATA INFILE needs: GRANT FILE ON *.*, or use "
            f"local=1 ({text})"
        )
    if not local and code == 1290:
        return RequestError(
            "the server's secure_file_priv does not allow 'server_staging_dir' of the qserv connection: set one to the "
            f"other, or use local=1 ({text})"
        )
    if not local and code in (2, 13, 29):
        return RequestError(
            "the MySQL server cannot read the file: 'staging_dir' (as tasks see it) and 'server_staging_dir' (as the "
            f"server sees it) of the qserv connection must be one folder, readable by the server; or "
            f"use local=1 ({text})"
        )
    return None
