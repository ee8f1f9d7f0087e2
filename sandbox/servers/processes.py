"""Look at processes of this machine without ever mistaking a foreign process for an own one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_POLL_SECONDS = 0.01


def _ps(*arguments: str) -> str:
    command = ["ps", "-ww", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a list of arguments of its own, no shell
    return result.stdout.strip()


def _has_proc() -> bool:
    return (_PROC / "self" / "cmdline").exists()


def command_line(pid: int) -> tuple[str, ...]:
    """The arguments a process was started with.

    :param pid: process id
    :returns: the arguments on Linux; one string with the whole command line elsewhere; empty for a process that has
        ended, also if its parent has not collected it yet
    """
    if not _has_proc():
        text = _ps("-o", "command=", "-p", str(pid))
        return (text,) if text else ()
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in raw.split(b"\0") if part)


def has_argument(pid: int, argument: str) -> bool:
    """Whether a live process was started with an argument.

    :param pid: process id
    :param argument: the exact argument; where only the joined command line is known, any part of it
    :returns: True if so
    """
    line = command_line(pid)
    for _ in range(50):
        # In the midst of its exec call, a process is alive but its command line reads as empty.
        if line or identity(pid) is None:
            break
        time.sleep(0.001)
        line = command_line(pid)
    return _contains(line, argument)


def _contains(line: tuple[str, ...], argument: str) -> bool:
    return argument in line if _has_proc() else any(argument in part for part in line)


def find(argument: str) -> Iterator[int]:
    """All live processes that were started with an argument.

    :param argument: as for :func:`has_argument`
    :returns: their process ids
    """
    if _has_proc():
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    else:
        pids = [int(word) for word in _ps("-ax", "-o", "pid=").split()]
    return (pid for pid in pids if pid != os.getpid() and _contains(command_line(pid), argument))


def identity(pid: int) -> str | None:
    """A mark that tells a process from a later one that was given the same process id.

    :param pid: process id
    :returns: the mark (from the start time), or None for a process that has ended
    """
    if not _has_proc():
        state, _, started = _ps("-o", "stat=,lstart=", "-p", str(pid)).partition(" ")
        return None if not state or state.startswith("Z") else started.strip()
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold blanks and parentheses itself, hence the split at the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def end(pid: int, argument: str, *, grace_seconds: float) -> None:
    """End a process, first politely, then by force, and wait for its death.

    :param pid: process id
    :param argument: the process is left alone unless it was started with this argument
    :param grace_seconds: time between SIGTERM and SIGKILL, in s; 0 sends SIGKILL at once
    :raises TimeoutError: if it survives even SIGKILL for 10 s
    """
    if grace_seconds > 0:
        send(pid, argument, signal.SIGTERM)
        if wait_for_end(pid, argument, grace_seconds):
            return
    send(pid, argument, signal.SIGKILL)
    if not wait_for_end(pid, argument, 10.0):
        raise TimeoutError(f"process {pid} did not end after SIGKILL")


def send(pid: int, argument: str, number: signal.Signals) -> None:
    """Send a signal to a process, if it is the one that is meant and still there.

    :param pid: process id
    :param argument: the process is left alone unless it was started with this argument
    :param number: the signal
    """
    if not has_argument(pid, argument):
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_for_end(pid: int, argument: str, seconds: float) -> bool:
    """Wait until a process has ended.

    :param pid: process id
    :param argument: an argument it was started with
    :param seconds: at most so long, in s
    :returns: whether it has ended
    """
    deadline = time.monotonic() + seconds
    while has_argument(pid, argument):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
