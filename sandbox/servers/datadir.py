"""Data folders and option files of private MariaDB servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

DEFAULT_OPTIONS: Mapping[str, str] = {
    "innodb_buffer_pool_size": "64M",
    "innodb_log_file_size": "64M",
    "innodb_flush_log_at_trx_commit": "2",
    "innodb_buffer_pool_dump_at_shutdown": "OFF",
    "innodb_buffer_pool_load_at_startup": "OFF",
    "key_buffer_size": "8M",
    "aria_pagecache_buffer_size": "8M",
    "performance_schema": "OFF",
    "skip_name_resolve": "ON",
    "local_infile": "ON",
    "max_connections": "100",
    "table_open_cache": "512",
    # A catalog has thousands of tables; several fsyncs for each would dominate its creation. They matter only if the
    # machine loses power, not if a server is killed. InnoDB goes its own way and is not affected.
    "sync_frm": "OFF",
    "debug_no_sync": "ON",
}

# The address of a unix socket holds 108 bytes on Linux and 104 on macOS, with the closing zero.
MAX_SOCKET_PATH = 100


#: With this environment variable set to whatever forbids it, no server is started.
NO_SERVERS = "SANDBOX_NO_SERVERS"


class SandboxError(RuntimeError):
    """Something in the sandbox does not work: a server does not start, a program is not installed, ..."""


def check_allowed() -> None:
    """Refuse to start a server where :data:`NO_SERVERS` is set.

    :raises SandboxError: if it is
    """
    if reason := os.environ.get(NO_SERVERS):
        raise SandboxError(f"no server may start in {reason}")


def find_program(*names: str) -> str:
    """Path of a server's program, also if it lies in a system folder that is not on the PATH.

    :param names: names under which it is known, best first
    :returns: its path
    :raises SandboxError: if it is not installed, or no server may start
    """
    check_allowed()
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])
    for name in names:
        if found := shutil.which(name, path=search):
            return found
    raise SandboxError(f"{names[0]} was not found: install MariaDB's server (Debian: mariadb-server-core, "
                       "Homebrew: mariadb)")  # fmt: skip


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step.

    :param path: the file
    :param text: its new content
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def quoted(value: object) -> str:
    """A value as it stands in an option file.

    :param value: a path or a word
    :returns: the value in double quotes, with backslashes escaped
    :raises ValueError: for a value with a line break or a double quote
    """
    text = str(value)
    if any(mark in text for mark in '\n\r"'):
        raise ValueError(f"not possible in an option file: {text!r}")
    return '"' + text.replace("\\", "\\\\") + '"'


def make_template(folder: Path) -> Path:
    """Create the data folder all servers start from, unless it is there already.

    :param folder: where to keep it
    :returns: the data folder
    :raises SandboxError: if MariaDB's install program fails
    """
    data = folder / "data"
    if data.is_dir():
        return data
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = folder / "install.cnf"
    # The size of the redo log is given here so that the servers need not rebuild it when they start.
    size = DEFAULT_OPTIONS["innodb_log_file_size"]
    options.write_text(f"[mariadbd]\ninnodb_log_file_size={size}\ninnodb_flush_log_at_trx_commit=0\nsync_frm=0\n")
    fresh = Path(tempfile.mkdtemp(dir=folder, prefix="new-"))
    command = [
        find_program("mariadb-install-db", "mysql_install_db"),
        f"--defaults-file={options}",
        f"--datadir={fresh}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        "--force",  # a machine whose own name cannot be looked up will do
    ]
    if os.geteuid() == 0:
        command.append("--user=root")
    with tempfile.TemporaryDirectory(dir=folder, prefix="tmp-") as own:
        # In a shared folder each server that starts removes the temporary tables of the others.
        result = subprocess.run(  # noqa: S603 - a list of arguments of its own, no shell
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": own},
        )
    if result.returncode != 0 or not (fresh / "mysql").is_dir():
        shutil.rmtree(fresh, ignore_errors=True)
        raise SandboxError(f"{command[0]} failed:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
    fresh.rename(data)
    return data


def copy_template(template: Path, data: Path) -> None:
    """Give a server its own copy of the template.

    :param template: the folder of :func:`make_template`
    :param data: the server's data folder, which must not exist yet
    """
    part = data.with_name(data.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(make_template(template), part)
    part.chmod(0o700)
    part.rename(data)


def first_statements(root_password: str) -> str:
    """SQL that closes a fresh server, for its ``init_file``, which runs before any connection is accepted.

    :param root_password: letters, digits, ``-`` and ``_``
    :returns: one statement per line; running them again does no harm
    """
    lines = ["DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');",
             "FLUSH PRIVILEGES;"]  # fmt: skip
    for host in ("localhost", "127.0.0.1"):
        lines.append(f"CREATE OR REPLACE USER 'root'@'{host}' IDENTIFIED BY '{root_password}';")
        lines.append(f"GRANT ALL PRIVILEGES ON *.* TO 'root'@'{host}' WITH GRANT OPTION;")
    return "\n".join(lines) + "\n"


def choose_socket(folder: Path) -> Path:
    """A path for a unix socket that is short enough.

    :param folder: the server's folder, used if its path is short
    :returns: a path in that folder or in a new private folder for temporary files
    """
    best = folder / "mariadbd.sock"
    if len(os.fsencode(best)) <= MAX_SOCKET_PATH:
        return best
    temporary = Path(tempfile.mkdtemp(prefix="reindex-"))
    if len(os.fsencode(temporary)) > MAX_SOCKET_PATH - 20:
        temporary.rmdir()
        temporary = Path(tempfile.mkdtemp(prefix="reindex-", dir="/tmp"))
    return temporary / "mariadbd.sock"


def remove_socket(socket: Path, folder: Path) -> None:
    """Remove a socket of :func:`choose_socket` and the folder that was made for it.

    :param socket: the socket's path
    :param folder: the server's folder
    """
    socket.unlink(missing_ok=True)
    if socket.parent != folder:
        with contextlib.suppress(OSError):
            socket.parent.rmdir()
