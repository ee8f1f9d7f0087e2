"""A small process that stops a sandbox's servers when their owner has died, even if it was killed by SIGKILL."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandbox.servers import processes
from sandbox.servers.datadir import SandboxError

_POLL_SECONDS = 0.2
_OPTION = "--guard-root="


def mark(root: Path) -> str:
    """The argument by which a sandbox's guard is recognised.

    :param root: the sandbox's folder
    :returns: the argument
    """
    return f"{_OPTION}{root}"


def launch(kind: Any, root: Path, owner_pid: int) -> subprocess.Popen[bytes]:
    """Start a guard.

    :param kind: the class of :class:`sandbox.servers.private_server.PrivateServer` that stops them
    :param root: the sandbox's folder, with its state written
    :param owner_pid: the process to watch
    :returns: the guard's process
    :raises SandboxError: if the owner is not alive
    """
    owner = processes.identity(owner_pid)
    if owner is None:
        raise SandboxError(f"there is no process {owner_pid} to own the sandbox")
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
    with (root / kind.GUARD_LOG).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - a list of arguments of its own, no shell
            [sys.executable, "-m", __name__, mark(root), str(owner_pid), owner, f"{kind.__module__}:{kind.__name__}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # whoever kills the owner's process group must not get the guard, too
        )


def watch(root: Path, owner_pid: int, owner: str, kind: str) -> None:
    """Wait for the owner's end, then stop the servers.

    :param root: the sandbox's folder
    :param owner_pid: the process to watch
    :param owner: its mark of :func:`sandbox.servers.processes.identity`; process ids are used again
    :param kind: the servers' class as ``package.module:name``
    """
    # Now: when the owner has ended, its virtual environment may be gone.
    servers = pkgutil.resolve_name(kind)
    while processes.identity(owner_pid) == owner:
        time.sleep(_POLL_SECONDS)
    if (root / servers.STATE).exists():
        servers.load(root).end_with_owner()


if __name__ == "__main__":
    watch(Path(sys.argv[1].removeprefix(_OPTION)), int(sys.argv[2]), sys.argv[3], sys.argv[4])
