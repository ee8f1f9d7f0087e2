"""One task of a reindex as a process of its own, which the tests kill: `python -m tests.faults.collection_task`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from airflow_reindex.vectors.embedding import pipeline
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.pgvector import PgVectorStore
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.vectors.harness import Reindex

#: Parts written in one transaction: few, so that a window writes often.
WRITE_PARTS = 64


@dataclass(frozen=True)
class Elsewhere:
    """An embedding server in another process."""

    url: str


class TaskProcess:
    """
    A process that is ready to do one task.

    :param run: the run.
    :param step: ``window``, ``verify`` or ``switch``.
    :param number: the window.
    :param die_at: a moment of :data:`MOMENTS` at which it kills itself.
    """

    def __init__(self, run: Reindex, step: str, number: int = 0, die_at: str = "") -> None:
        order = {
            "root": str(run.postgres.root),
            "database": run.database,
            "server": run.server.url,
            "staging": str(Path(run.folder.path("plan.json")).parents[1]),
            "params": run.params,
            "step": step,
            "number": number,
            "die_at": die_at,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.collection_task"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._say(json.dumps(order))
        assert self._hear() == "ready"

    def start(self) -> None:
        """Let it begin."""
        self._say("go")

    def finish(self) -> float:
        """Let it do its task to the end; the seconds that it took."""
        began = time.monotonic()
        self.start()
        assert self._hear() == "done"
        seconds = time.monotonic() - began
        self.kill()
        return seconds

    def kill_after(self, seconds: float) -> bool:
        """Let it begin, and kill it some seconds later; whether it was still at work."""
        self.start()
        time.sleep(seconds)
        return self.kill()

    def kill(self) -> bool:
        """Kill it; whether it was still at work."""
        self._process.kill()
        return "done" not in self._process.communicate()[0]

    def wait_for_death(self) -> None:
        """Let it begin, and wait until it has killed itself."""
        self.start()
        said, _ = self._process.communicate(timeout=600)
        assert self._process.returncode == -signal.SIGKILL, said

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def die() -> None:
    """As the kernel's out-of-memory killer ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyHook(list[Pointer]):
    """A registry whose client dies while it is told."""

    def append(self, pointer: Pointer) -> None:
        """Called by the switch."""
        if pointer:
            die()


#: When a switch may die: readers are where they were until the first call of ``repoint`` has returned.
MOMENTS = ("before the views", "after the views", "in the hook", "before the note", "after the note", "after the drop")


def doom(run: Reindex, moment: str) -> None:
    """Let a switch die at a moment."""

    def wrap(name: str, deadly: Callable[..., bool], after: bool) -> None:
        wrapped = getattr(PgVectorStore, name)

        def call(self: PgVectorStore, *values: Any) -> Any:
            if not after and deadly(*values):
                die()
            result = wrapped(self, *values)
            if after and deadly(*values):
                die()
            return result

        setattr(PgVectorStore, name, call)

    if moment == "in the hook":
        run.hooked = DeadlyHook()
    elif moment == "after the drop":
        wrap("drop", lambda *_: True, after=True)
    elif moment:
        noted = moment.endswith("note")
        wrap("repoint", lambda pointer, _: pointer.hooked == noted, after=moment.startswith("after"))


def main() -> None:
    """Wait for the order, wait for the start, do it."""
    pipeline.WRITE_PARTS = WRITE_PARTS
    order = json.loads(sys.stdin.readline())
    run = Reindex(
        Postgres(Path(order["root"])),
        order["database"],
        cast(EmbeddingServer, Elsewhere(order["server"])),
        Path(order["staging"]),
        **order["params"],
    )
    run.least_recall = 0.0
    doom(run, order["die_at"])
    print("ready", flush=True)
    sys.stdin.readline()
    if order["step"] == "window":
        run.window(order["number"])
    else:
        getattr(run, order["step"])()
    print("done", flush=True)


if __name__ == "__main__":
    main()
