"""Servers below one folder, which keeps what is needed to find and stop them again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from sandbox.servers import datadir, guard, processes


class PrivateServer(ABC):
    """What kinds of servers have in common: one process at a time starts or stops them, a guard knows their owner.

    :param root: the folder; what it holds already is used again
    """

    #: Names of files in the folder.
    STATE: ClassVar = "state.json"
    LOCK: ClassVar = "lock"
    GUARD_LOG: ClassVar = "guard.log"

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    @abstractmethod
    def load(cls, root: Path) -> Self:
        """What a folder holds, running or not."""

    def __enter__(self) -> Self:
        return self.up(owner_pid=os.getpid())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self, owner_pid: int | None = None) -> Self:
        """Start what does not run yet, and wait until it answers.

        :param owner_pid: all is stopped when this process has ended, however it ended; None keeps it until
            :meth:`down`, also if there was an owner before
        :returns: self
        :raises SandboxError: if a server does not come up; then all are stopped
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            self._stop_guard()
            self._prepare()
            # Before the first server starts: the guard has to know them all, and passwords must not get lost.
            self._write_state()
            if owner_pid is not None:
                self._guard = guard.launch(type(self), self.root, owner_pid)
            try:
                self._start()
            except BaseException:
                self._kill()
                self._stop_guard()
                raise
            finally:
                self._write_state()
        return self

    def down(self) -> None:
        """Stop all cleanly; nothing happens to what does not run."""
        if self.root.is_dir():
            with self._locked():
                self._stop()
                self._stop_guard()

    def destroy(self) -> None:
        """Kill all and remove everything of it; foreign files in the folder stay."""
        if not self.root.is_dir():
            return
        with self._locked():
            self._kill()
            self._stop_guard()
            self._remove()
            for name in (self.STATE, self.GUARD_LOG, self.LOCK):
                (self.root / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def end_with_owner(self) -> None:
        """What the guard does when the owner has died."""
        self.down()

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Whatever the state to be written depends on."""

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def _remove(self) -> None:
        """Remove all files but those of this class; no server runs."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What :meth:`load` needs, as plain JSON types; it holds passwords."""

    def _read_state(self) -> dict[str, Any]:
        """What was written last; empty if nothing was."""
        try:
            state: dict[str, Any] = json.loads((self.root / self.STATE).read_text())
        except FileNotFoundError:
            return {}
        return state

    def _write_state(self) -> None:
        datadir.write_private(self.root / self.STATE, json.dumps(self._state(), indent=1))

    def _stop_guard(self) -> None:
        mark = guard.mark(self.root)
        # Never this process: a guard that has noticed its owner's death stops the servers by way of this very method.
        for pid in processes.find(mark):
            processes.end(pid, mark, grace_seconds=2.0)
        if self._guard is not None:
            self._guard.wait()
            self._guard = None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process starts or stops the servers at a time."""
        with (self.root / self.LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
