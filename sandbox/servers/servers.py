"""One private MariaDB server: own data folder, own port on the loopback address, random passwords."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import MySQLdb
from MySQLdb.connections import Connection

from sandbox.servers import datadir, processes
from sandbox.servers.datadir import SandboxError
from sandbox.servers.grants import ACCOUNT

HOST = "127.0.0.1"
# Below the range from which systems draw the ports of outgoing connections: such a connection could otherwise
# occupy the port of a server that is down for a moment, or even be connected to itself.
PORTS = range(20_000, 30_000)
PORT_ATTEMPTS = 20
_POLL_SECONDS = 0.03


def free_port() -> int:
    """A port that nobody listens on, on the loopback address.

    :returns: the port; somebody else may take it before it is used
    :raises SandboxError: if none is found
    """
    for _ in range(200):
        port = secrets.choice(PORTS)
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise SandboxError(f"no free port from {PORTS.start} to {PORTS.stop - 1}")


class _PortTakenError(SandboxError):
    """Another process listens on the port."""


class MariaDBServer:
    """A mariadbd process with a data folder of its own.

    :param name: a name for people, e.g. ``czar``
    :param folder: everything of the server lies in here
    :param options: server options over :data:`sandbox.servers.datadir.DEFAULT_OPTIONS`
    :param template: folder with the data folder to copy from, shared by the servers of a sandbox
    :param port: port on the loopback address; 0 chooses a free one at the first start, which is kept from then on
    :param passwords: account to password; random ones if not given
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        options: Mapping[str, str] | None = None,
        *,
        template: Path | None = None,
        port: int = 0,
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder.absolute()
        self.options = dict(options or {})
        self.template = (template or self.folder.parent / "template").absolute()
        self.port = port
        self.passwords = dict(passwords or {user: secrets.token_urlsafe(24) for user in ("root", ACCOUNT)})
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<MariaDBServer {self.name} port={self.port} folder={self.folder}>"

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def infile_dir(self) -> Path:
        """The only folder from which the server reads files (its ``secure_file_priv``)."""
        return self.folder / "infile"

    @property
    def error_log(self) -> Path:
        """The server's error log."""
        return self.folder / "error.log"

    @property
    def socket(self) -> Path:
        """The unix socket; a file ``socket`` in the folder notes where it is, as its path may have to be short."""
        return Path((self.folder / "socket").read_text())

    @property
    def pid(self) -> int | None:
        """Process id of the live server, None if it is not running."""
        try:
            pid = int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.has_argument(pid, self._mark) else None

    @property
    def _mark(self) -> str:
        """The argument by which the server's process is recognised."""
        return f"--defaults-file={self.folder / 'my.cnf'}"

    def is_running(self) -> bool:
        """:returns: whether the server's process is alive"""
        return self.pid is not None

    def start(self, timeout: float = 300.0, *, move: bool = False) -> None:
        """Start the server and wait until it answers; if it is running already, just wait.

        :param timeout: how long to wait, in s
        :param move: choose another port if a foreign process holds the server's
        :raises SandboxError: if it does not come up, with the end of its error log
        """
        if self.is_running():
            self._wait_until_ready(timeout)
            return
        if not self.data_dir.is_dir():
            self._create()
        move = move or self.port == 0
        for attempt in range(PORT_ATTEMPTS):
            self.port = self.port or free_port()
            try:
                self._launch()
                self._wait_until_ready(timeout)
                break
            except _PortTakenError:
                if attempt + 1 == PORT_ATTEMPTS or not move:
                    raise
                self.port = 0
            except BaseException:
                self.kill()
                raise
        (self.folder / "init.sql").unlink(missing_ok=True)

    def stop(self, timeout: float = 30.0) -> None:
        """Shut the server down cleanly; nothing happens if it is not running.

        :param timeout: after so many s it is killed
        """
        self._end(grace_seconds=timeout)

    def kill(self) -> None:
        """Kill the server like a crash would, and wait for its death. Its data stay, :meth:`start` recovers them."""
        self._end(grace_seconds=0.0)

    def connect(self, user: str = "root", database: str = "", local_infile: bool = False) -> Connection:
        """Open a connection over TCP, with autocommit on.

        :param user: ``root`` or the account ``reindex``
        :param database: the default database, if any
        :param local_infile: allow LOAD DATA LOCAL INFILE
        :returns: the connection
        """
        return self._connect({"host": HOST, "port": self.port}, user, database, local_infile)

    def _connect(
        self, where: Mapping[str, Any], user: str, database: str = "", local_infile: bool = False
    ) -> Connection:
        return MySQLdb.connect(
            **where,
            user=user,
            password=self.passwords[user],
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
            local_infile=int(local_infile),
        )

    def _end(self, grace_seconds: float) -> None:
        for pid in {self.pid, *processes.find(self._mark)} - {None}:
            if pid is not None:
                processes.end(pid, self._mark, grace_seconds=grace_seconds)
        if self._process is not None:
            self._process.wait()  # collects the exit status, so that no zombie stays
            self._process = None
        (self.folder / "pid").unlink(missing_ok=True)
        self._forget_socket()

    def _forget_socket(self) -> None:
        with contextlib.suppress(OSError):
            datadir.remove_socket(self.socket, self.folder)

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Before the data folder appears, so that a start that is cut short leaves no server without a password.
        datadir.write_private(self.folder / "init.sql", datadir.first_statements(self.passwords["root"]))
        datadir.copy_template(self.template, self.data_dir)

    def _configuration(self, socket_path: Path) -> str:
        values: dict[str, object] = {
            "datadir": self.data_dir,
            "socket": socket_path,
            "pid_file": self.folder / "mariadbd.pid",
            "log_error": self.error_log,
            "secure_file_priv": self.infile_dir,
            "tmpdir": self.folder / "tmp",
            **datadir.DEFAULT_OPTIONS,
            **self.options,
            # Last, so that no option can open the server to the network.
            "bind_address": HOST,
            "port": self.port,
        }
        if os.geteuid() == 0:
            values["user"] = "root"
        if (self.folder / "init.sql").exists():
            values["init_file"] = self.folder / "init.sql"
        return "[mariadbd]\n" + "".join(f"{key}={datadir.quoted(value)}\n" for key, value in values.items())

    def _launch(self) -> None:
        for folder in (self.infile_dir, self.folder / "tmp"):
            folder.mkdir(exist_ok=True, mode=0o700)
        self._forget_socket()
        socket_path = datadir.choose_socket(self.folder)
        datadir.write_private(self.folder / "socket", str(socket_path))
        datadir.write_private(self.folder / "my.cnf", self._configuration(socket_path))
        self.error_log.write_text("")
        with self.error_log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a list of arguments of its own, no shell
                [datadir.find_program("mariadbd", "mysqld"), self._mark],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal must not reach the servers
            )
        datadir.write_private(self.folder / "pid", str(self._process.pid))

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.is_running() if self._process is None else self._process.poll() is not None
            if ended:
                self._raise_for_log("ended")
            try:
                # Not over TCP: as long as the server does not listen, the port may be answered by another process.
                with contextlib.closing(self._connect({"unix_socket": str(self.socket)}, "root")):
                    return
            except MySQLdb.Error:
                if time.monotonic() > deadline:
                    self._raise_for_log(f"did not answer within {timeout:g} s")
            time.sleep(_POLL_SECONDS)

    def _raise_for_log(self, what: str) -> NoReturn:
        log = self.error_log.read_text(errors="replace") if self.error_log.exists() else ""
        kind = _PortTakenError if "Bind on TCP/IP port" in log and "ddress already in use" in log else SandboxError
        self._end(grace_seconds=0.0)
        raise kind(f"MariaDB server {self.name} {what}; the end of {self.error_log}:\n{log[-3000:]}")

    def remove(self) -> None:
        """Kill the server and remove its folder with all data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
