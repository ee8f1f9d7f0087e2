"""Transport of rows to the czar's server: text files, LOAD DATA, and the meaning of its errors."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import MySQLdb
import pyarrow as pa
from pyarrow import csv

from airflow_reindex.core.failures import Code, RequestError, SpaceError, TransientError
from airflow_reindex.core.staging import RESERVE_BYTES, DiskFullError, full_message, told_when_full
from airflow_reindex.director.mysql.client import Connection, code_of, execute, mysql_reason
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.types import Rows

#: Bytes that a row takes as text at most: three numbers of 64, 31 and 64 bits, and the separators.
TEXT_BYTES = 55


#: Age in seconds from which a probe file is an orphan; a probe takes less than a second.
PROBE_SECONDS = 3_600


@dataclass(frozen=True)
class BulkLoadTransport:
    """
    How files reach the czar's server.

    :param local: whether the client sends them (``LOAD DATA LOCAL INFILE``); otherwise the server reads them itself.
    :param folder: where tasks write them; ``None`` for a temporary folder on the task's machine (``local`` only).
    :param server_folder: the same folder as the server sees it.
    """

    local: bool
    folder: str | None = None
    server_folder: str | None = None

    def ensure_free_space(self, rows: int) -> None:
        """Raise :class:`SpaceError` if a file of that many rows would fill the disk."""
        folder = tempfile.gettempdir() if self.local or self.folder is None else self.folder
        free, need = shutil.disk_usage(folder).free, rows * TEXT_BYTES
        if free < need + RESERVE_BYTES:
            raise SpaceError(full_message(folder, free, need))

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A folder for the files of a task; a temporary one is removed with its files when the block ends."""
        if self.local or self.folder is None:
            with tempfile.TemporaryDirectory(prefix="airflow-reindex-") as folder:
                yield Path(folder)
        else:
            yield Path(self.folder)

    def sweep(self, mark: str, keep: str = "") -> None:
        """
        Remove the files that killed tasks left in the shared folder.

        :param mark: what follows ``reindex-`` in the files' names: the index's mark, and the token of one build.
        :param keep: a token whose files stay.
        """
        if self.local or self.folder is None:
            return
        folder = Path(self.folder)
        dead = [path for path in folder.glob(f"reindex-{mark}-*.tsv") if not keep or keep not in path.name]
        # A recent probe belongs to a plan task that is running.
        dead += [path for path in folder.glob("reindex-probe-*.tsv") if _age(path) > PROBE_SECONDS]
        for path in dead:
            # Another run may sweep at the same time, or the file may belong to another account.
            with suppress(OSError):
                path.unlink()

    def seen_by_server(self, path: Path) -> str:
        """The file's path for the statement: the client's own if ``local``, otherwise as the server sees it."""
        return str(path) if self.local else str(Path(self.server_folder or self.folder or "") / path.name)


def write_text(rows: Rows, path: Path) -> None:
    """
    Write rows as the tab-separated text that LOAD DATA reads.

    :param path: the file; readable by all, as the server runs under another account.
    :raises TransientError: when the file was removed meanwhile.
    :raises DiskFullError: when no space is left.
    """
    table = pa.table({"key": rows.key, "chunk": rows.chunk, "sub_chunk": rows.sub_chunk})
    try:
        with told_when_full(str(path.parent)):
            csv.write_csv(table, path, csv.WriteOptions(include_header=False, delimiter="\t", batch_size=65_536))
    except DiskFullError:
        path.unlink(missing_ok=True)
        raise
    try:
        os.chmod(path, 0o644)  # noqa: PTH101
    except FileNotFoundError as error:
        raise TransientError(
            f"the file {path} was removed while this task worked with it: another run has taken over the index, or "
            "somebody tidied up. A retry tells which."
        ) from error


def load_file(connection: Connection, transport: BulkLoadTransport, path: Path, table: str, key: str) -> int:
    """
    Load one complete file.

    :param path: the file, as the task sees it.
    :param table: the table, quoted.
    :returns: the server's count of rows.
    :raises DataError: when the server gave a warning; with LOCAL it reports skipped and changed rows that way.
    """
    local = "LOCAL " if transport.local else ""
    return execute(
        connection,
        f"LOAD DATA {local}INFILE %s INTO TABLE {table} CHARACTER SET latin1 FIELDS TERMINATED BY '\\t' "
        f"ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({quote(key)}, `chunkId`, `subChunkId`)",
        (transport.seen_by_server(path),),
    )


def explain_load_error(error: MySQLdb.Error, *, local: bool) -> RequestError | None:
    """
    Name the server's setting that forbids the load, and the alternative.

    :param local: whether LOAD DATA LOCAL was used.
    :returns: the error to raise; ``None`` when the cause is neither a setting nor disk space.
    """
    code, reason = code_of(error), mysql_reason(error)
    text = reason.text
    if local and code in (1148, 3948, 4166, 2068):
        return RequestError(
            f"LOAD DATA LOCAL INFILE is switched off: set local_infile=1 on the czar's server, or use local=0 ({text})"
        )
    if not local and code == 1045:
        return RequestError(
            f"the account lacks the FILE privilege that LOAD DATA INFILE needs: GRANT FILE ON *.*, or use "
            f"local=1 ({text})",
            code=Code.ACCESS,
        )
    if not local and code == 1290:
        return RequestError(
            "the server's secure_file_priv does not allow 'server_staging_dir' of the qserv connection: set one to the "
            f"other, or use local=1 ({text})"
        )
    if reason.code is Code.DISK_FULL:
        return RequestError(
            f"the czar's server has no room left: make some, then clear the failed tasks ({text})", code=Code.DISK_FULL
        )
    if not local and code in (2, 13, 29):
        return RequestError(
            "the MySQL server cannot read the file: 'staging_dir' (as tasks see it) and 'server_staging_dir' (as the "
            f"server sees it) of the qserv connection must be one folder, readable by the server; or "
            f"use local=1 ({text})"
        )
    return None


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 when it is gone."""
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0.0
