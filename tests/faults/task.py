"""One task of a build as a process of its own, which the tests kill: `python -m tests.faults.task`, fed by stdin."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from airflow_reindex.core.staging import Folder
from airflow_reindex.director import steps
from airflow_reindex.director.model.records import read_plan, read_split
from airflow_reindex.director.mysql import binary_protocol
from sandbox.servers.cluster import Sandbox
from tests.harness import Build, sandbox_servers

#: Rows fetched at a time and rows in memory: small, so that a task takes long and writes many runs.
FETCH_ROWS, ROWS_IN_MEMORY, MEMORY = 500, 1_000, 512 << 20


class TaskProcess:
    """
    A process that is ready to do one task.

    :param run: the build.
    :param step: ``extract`` or ``load``.
    :param number: the map index.
    """

    def __init__(self, run: Build, step: str, number: int) -> None:
        order = {"root": str(run.sandbox.root), "folder": run.folder.url, "step": step, "number": number}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.task"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._say(json.dumps(order))
        self._hear("ready")

    def finish(self) -> float:
        """Let it do its task to the end; the seconds that it took."""
        began = time.monotonic()
        self.begin()
        self._hear("done")
        seconds = time.monotonic() - began
        self._end()
        return seconds

    def begin(self) -> None:
        """Let it begin."""
        self._say("go")

    def kill_after(self, seconds: float) -> bool:
        """Let it begin, and kill it some seconds later; whether it was still at work."""
        self.begin()
        time.sleep(seconds)
        return self.kill()

    def kill(self) -> bool:
        """Kill it; whether it was still at work."""
        self._process.kill()
        assert self._process.stdout is not None
        was_done = "done" in self._process.stdout.read()
        self._end()
        return not was_done

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _hear(self, text: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == text

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def work(order: dict[str, Any]) -> None:
    """Do a task."""
    folder, servers = Folder.at(order["folder"]), sandbox_servers(Sandbox.load(Path(order["root"])))
    token, number = read_plan(folder).token, order["number"]
    if order["step"] == "extract":
        steps.extract_group(servers, folder, read_plan(folder, token), number, MEMORY)
    else:
        steps.load_range(servers, folder, read_plan(folder, token), read_split(folder).build, number, MEMORY)


def main() -> None:
    """Wait for the order, wait for the start, do it."""
    # Small batches and small runs: the task is killed in the midst of several.
    binary_protocol._BUFFER_BYTES = 20 * FETCH_ROWS
    mock.patch.object(steps, "rows_that_fit", return_value=ROWS_IN_MEMORY).start()
    order = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    work(order)
    print("done", flush=True)


if __name__ == "__main__":
    main()
