"""Whether the czar's disk has room for the index: asked before a build, and before each slice."""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath

import MySQLdb

from airflow_reindex.core.failures import SpaceError
from airflow_reindex.core.staging import RESERVE_BYTES, full_message
from airflow_reindex.director.mysql.client import Connection, query

#: Bytes that a row takes in the finished index.
INDEX_BYTES = 40


class ServerRoom:
    """
    The room that is left for the czar's tables.

    :param connection: the czar's server.
    :param data_dir: the folder of its data as tasks see it; ``None`` where they do not: then the server is asked, which
        knows when its plugin DISKS is installed and the account has the FILE privilege.
    """

    def __init__(self, connection: Connection, data_dir: str | None) -> None:
        self._connection, self._data_dir = connection, data_dir
        self._asks = data_dir is None

    def free(self) -> int | None:
        """
        How much is left.

        :returns: bytes; ``None`` when nobody can tell.
        """
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
        """
        Refuse to load what would fill the disk.

        :param rows: rows that are about to be loaded.
        :raises SpaceError: too little is left.
        """
        free, need = self.free(), rows * INDEX_BYTES
        if free is not None and free < need + RESERVE_BYTES:
            raise SpaceError(full_message("the disk of the czar's MySQL server", free, need))
