"""A czar and its workers, all on this machine."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sandbox.servers import datadir, grants, identifiers
from sandbox.servers.datadir import SandboxError
from sandbox.servers.private_server import PrivateServer
from sandbox.servers.servers import HOST, MariaDBServer

CZAR = "czar"
INDEX_DATABASE = "qservMeta"
REPLICATION_DATABASE = "qservReplica"
CATALOG_MODES = ("replication", "scan")


@dataclass(frozen=True)
class ServerStatus:
    """How a server is doing.

    :param name: ``czar`` or ``worker-<n>``
    :param running: whether its process is alive
    :param port: its port on the loopback address
    :param pid: its process id, if it is alive
    :param folder: where its files are
    """

    name: str
    running: bool
    port: int
    pid: int | None
    folder: Path


class Sandbox(PrivateServer):
    """One czar and some workers below one folder, which keeps their data, ports and passwords.

    If the folder holds a sandbox already, this is that sandbox: its workers stay, more are added if asked for.

    :param root: the folder
    :param workers: how many workers
    :param czar_options: MariaDB options of the czar, e.g. ``{"innodb_buffer_pool_size": "256M"}``
    :param worker_options: MariaDB options of every worker
    :param template: the folder of :func:`sandbox.servers.datadir.make_template`, shared with other sandboxes;
        None gives the sandbox one of its own
    """

    def __init__(
        self,
        root: Path,
        workers: int = 2,
        czar_options: Mapping[str, str] | None = None,
        worker_options: Mapping[str, str] | None = None,
        template: Path | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError("a sandbox needs at least one worker")
        super().__init__(root)
        self.template = Path(template or self.root / "template").absolute()
        kept = self._read_state().get("servers", {})
        count = max(workers, sum(name != CZAR for name in kept))
        self.czar = self._server(CZAR, czar_options, kept)
        self.workers: dict[str, MariaDBServer] = {
            name: self._server(name, worker_options, kept) for name in (f"worker-{i + 1}" for i in range(count))
        }

    @classmethod
    def load(cls, root: Path) -> Self:
        """The sandbox that a folder holds.

        :param root: the folder
        :returns: the sandbox, running or not
        :raises SandboxError: if there is none
        """
        if not (Path(root) / cls.STATE).exists():
            raise SandboxError(f"there is no sandbox in {root}")
        return cls(root, workers=1)

    @property
    def servers(self) -> tuple[MariaDBServer, ...]:
        """The czar, then the workers."""
        return (self.czar, *self.workers.values())

    def status(self) -> dict[str, ServerStatus]:
        """How the servers are doing.

        :returns: server name to status
        """
        found = {}
        for server in self.servers:
            pid = server.pid
            found[server.name] = ServerStatus(server.name, pid is not None, server.port, pid, server.folder)
        return found

    def connections(self, catalog: str = "replication") -> dict[str, str]:
        """Airflow's connections to the sandbox.

        :param catalog: where the product finds chunks: ``replication`` (the replication system's tables) or ``scan``
            (the workers' own tables)
        :returns: environment variable to JSON; it holds passwords
        """
        if catalog not in CATALOG_MODES:
            raise ValueError(f"catalog must be one of {CATALOG_MODES}, not {catalog!r}")
        connection_ids = {name: f"qserv_{name.replace('-', '_')}" for name in self.workers}
        extra = {
            "workers": connection_ids,
            "catalog": catalog,
            "staging_dir": str(self.czar.infile_dir),
            "server_staging_dir": str(self.czar.infile_dir),
            "data_dir": str(self.czar.data_dir),
        }
        czar = {"conn_type": "qserv", **self._login(self.czar), "schema": INDEX_DATABASE, "extra": extra}
        found = {"AIRFLOW_CONN_QSERV_DEFAULT": json.dumps(czar)}
        for name, server in self.workers.items():
            variable = f"AIRFLOW_CONN_{connection_ids[name].upper()}"
            found[variable] = json.dumps({"conn_type": "mysql", **self._login(server)})
        return found

    @staticmethod
    def _login(server: MariaDBServer) -> dict[str, Any]:
        return {
            "host": HOST,
            "port": server.port,
            "login": grants.ACCOUNT,
            "password": server.passwords[grants.ACCOUNT],
        }

    def _server(self, name: str, options: Mapping[str, str] | None, kept: Mapping[str, Any]) -> MariaDBServer:
        notes = kept.get(name, {})
        return MariaDBServer(
            name,
            self.root / "servers" / name,
            {**notes.get("options", {}), **(options or {})},
            template=self.template,
            port=notes.get("port", 0),
            passwords=notes.get("passwords"),
        )

    def _state(self) -> dict[str, Any]:
        servers = {s.name: {"port": s.port, "options": s.options, "passwords": s.passwords} for s in self.servers}
        return {"servers": servers}

    def _start(self) -> None:
        datadir.make_template(self.template)
        self._on_all(lambda server: server.start(move=True))
        self._prepare_accounts()

    def _stop(self) -> None:
        self._on_all(MariaDBServer.stop)

    def _kill(self) -> None:
        self._on_all(MariaDBServer.kill)

    def _remove(self) -> None:
        self._on_all(MariaDBServer.remove)
        shutil.rmtree(self.root / "template", ignore_errors=True)
        (self.root / "connections.env").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self.root / "servers").rmdir()

    def _prepare_accounts(self) -> None:
        for server in self.servers:
            given = grants.CZAR_GRANTS if server is self.czar else ()
            with contextlib.closing(server.connect()) as connection:
                if server is self.czar:
                    with connection.cursor() as cursor:
                        for database in (INDEX_DATABASE, REPLICATION_DATABASE):
                            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {identifiers.quote(database)}")
                grants.create_account(connection, server.passwords[grants.ACCOUNT], given)

    def _on_all(self, action: Callable[[MariaDBServer], None]) -> None:
        """Do something with all servers at the same time, with the others also if it fails with one."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            futures = [pool.submit(action, server) for server in self.servers]
        for future in futures:
            future.result()
