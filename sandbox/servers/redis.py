"""A private Redis server: the broker between a scheduler and its Celery workers."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from sandbox.servers.datadir import SandboxError, write_private
from sandbox.servers.parent_death import with_parent

_WAIT_SECONDS = 120.0


class Redis:
    """One server on loopback, whose data survive a restart.

    :param root: its folder
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._password = secrets.token_urlsafe(24)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What Celery connects to; it holds the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises SandboxError: there is no `redis-server`, or it does not come up
        """
        program = shutil.which("redis-server")
        if program is None:
            raise SandboxError("redis-server is not installed. Debian, Ubuntu: sudo apt-get install redis-server")
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self._password,
            "dir": self.root,
            "appendonly": "yes",
            "save": '""',
        }
        file = self.root / "redis.conf"
        # A file, as a command line can be read by others.
        write_private(file, "".join(f"{name} {value}\n" for name, value in settings.items()))
        with (self.root / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a list of arguments of its own, no shell
                with_parent([program, str(file)]), stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SandboxError(f"redis-server did not come up, see {self.root / 'redis.log'}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server; its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        import redis  # of the development's dependencies

        try:
            with redis.Redis(port=self.port, password=self._password, socket_timeout=5) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False
