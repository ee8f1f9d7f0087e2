"""The servers of a Qserv installation, as the steps of a build need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.model.tables import WORK_DATABASE, IndexTables
from airflow_reindex.director.mysql.bulk_load import BulkLoadTransport
from airflow_reindex.director.mysql.client import Connect


@dataclass(frozen=True, kw_only=True)
class Servers:
    """
    How to reach a Qserv installation.

    :param czar: connects to the czar's MySQL server, with ``local_infile`` allowed on the client's side.
    :param workers: connects to each worker's server, by worker name.
    :param index_database: the database of the director indexes.
    :param work_database: the database of a build's own tables.
    :param catalog: the source of the placement of chunks.
    :param replication_schema: the replication system's database.
    :param worker_connections: connections that extract tasks may open to one worker at a time.
    :param staging_dir: for ``local=0``: the folder that tasks and server share, as tasks see it.
    :param server_staging_dir: the same folder as the server sees it.
    :param data_dir: the czar's data folder as tasks see it, where they do; used only for its free space.
    """

    czar: Connect
    workers: Mapping[str, Connect]
    index_database: str = "qservMeta"
    work_database: str = WORK_DATABASE
    catalog: Literal["replication", "scan"] = "replication"
    replication_schema: str = "qservReplica"
    worker_connections: int = 4
    staging_dir: str | None = None
    server_staging_dir: str | None = None
    data_dir: str | None = None

    def tables(self, request: BuildRequest) -> IndexTables:
        """The names of an index's tables on the czar's server."""
        return IndexTables(self.work_database, self.index_database, request.index_table)

    def transport(self, request: BuildRequest) -> BulkLoadTransport:
        """
        How the files of a request are loaded.

        :raises RequestError: for ``local=0`` without a shared folder.
        """
        if request.local:
            return BulkLoadTransport(local=True)
        if not self.staging_dir:
            raise RequestError(
                "local=0 needs a folder that the tasks and the czar's MySQL server share: set 'staging_dir' (and "
                "'server_staging_dir', where the server sees it under another path) in the qserv connection's extra, "
                "or use local=1."
            )
        return BulkLoadTransport(
            local=False, folder=self.staging_dir, server_folder=self.server_staging_dir or self.staging_dir
        )
