"""Free space on the czar's disk: checked before a build, and before each slice."""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath

import MySQLdb

from airflow_reindex.core.failures import SpaceError
from airflow_reindex.core.staging import RESERVE_BYTES, full_message
from airflow_reindex.director.mysql.client import Connection, query

#: Bytes that a row takes in the finished index.
INDEX_BYTES = 40


class ServerDiskSpace:
    """
    The free space for the czar's tables.

    :param data_dir: the server's data folder as tasks see it; ``None`` where they do not: then the server is asked,
        which knows when its plugin DISKS is installed and the account has the FILE privilege.
    """

    def __init__(self, connection: Connection, data_dir: str | None) -> None:
        self._connection, self._data_dir = connection, data_dir
        self._asks = data_dir is None

    def free(self) -> int | None:
        """The free space in bytes; ``None`` when it is unknown."""
        if self._data_dir is not None:
            return shutil.disk_usage(self._data_dir).free
        if not self._asks:
            return None
        try:
            disks = query(self._connection, "SELECT Path, Available FROM information_schema.DISKS")
        except MySQLdb.Error:
            disks = []
        folder = PurePosixPath(str(query(self._connection, "SELECT @@datadir")[0][0])) if disks else None
        there = [(len(str(path)), int(kib)) for path, kib in disks if folder and folder.is_relative_to(str(path))]
        self._asks = bool(there)
        return max(there)[1] * 1024 if there else None

    def ensure(self, rows: int) -> None:
        """Raise :class:`SpaceError` if loading that many rows would fill the disk."""
        free, need = self.free(), rows * INDEX_BYTES
        if free is not None and free < need + RESERVE_BYTES:
            raise SpaceError(full_message("the disk of the czar's MySQL server", free, need))
