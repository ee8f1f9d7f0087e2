"""A task of either job in a process of its own that stops at a given moment: `python -m tests.support.task_process`."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql import integer_reader
from airflow_reindex.director.mysql.binary_protocol import Wire
from airflow_reindex.vectors.embedding import pipeline
from sandbox.servers.cluster import Sandbox
from sandbox.servers.embedding_server import EmbeddingServer
from sandbox.servers.postgres import Postgres
from tests.support.build import Build
from tests.support.reindex import Reindex

#: Parts written in one transaction, and bytes read from a worker at a time: few, so that a task is killed in the midst
#: of several.
WRITE_PARTS, FETCH_BYTES = 64, 10_000
#: What a process says when it has come to its moment, and before what became of its task.
HELD, TOLD, DONE, FAILED = "held", "told to stop", "done", "failed: "

Run = Build | Reindex


@dataclass(frozen=True)
class Elsewhere:
    """An embedding server in another process."""

    url: str


class TaskProcess:
    """
    A process that does one task, and stops at the call of a function, until it is released.

    As in Airflow, SIGTERM by itself does not end it: there it calls the operator's ``on_kill``, and some seconds later
    SIGKILL follows.

    :param run: the run.
    :param step: the task: a method of the run.
    :param number: its map index, where it has one.
    :param at: the moment: a function as ``package.module:name``; empty: it goes through.
    :param call: which call of that function.
    :param after: stop when it has returned, not before it.
    """

    def __init__(
        self, run: Run, step: str, number: int | None = None, *, at: str = "", call: int = 1, after: bool = False
    ) -> None:
        order = {**_describe(run), "step": step, "number": number, "at": at, "call": call, "after": after}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._say(json.dumps(order))

    @classmethod
    def ready(cls, run: Run, step: str, number: int | None = None) -> TaskProcess:
        """One that stops before it begins its task, with everything imported."""
        return cls(run, step, number, at=f"{type(run).__module__}:{type(run).__name__}.{step}").wait()

    def __enter__(self) -> TaskProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self) -> TaskProcess:
        """Until it has come to its moment."""
        said = self._hear()
        assert said == HELD, said
        return self

    def release(self) -> None:
        """Let it go on."""
        self._say("go on")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> bool:
        """Kill it; whether it was still at work."""
        self._process.kill()
        return DONE not in self._process.communicate()[0].split()

    def kill_after(self, seconds: float) -> bool:
        """Let it go on, and kill it some seconds later; whether it was still at work."""
        self.release()
        time.sleep(seconds)
        return self.kill()

    def finish(self) -> float:
        """Let it do its task to the end; the seconds that it took."""
        began = time.monotonic()
        self.release()
        assert self.result() == ""
        seconds = time.monotonic() - began
        self.kill()
        return seconds

    def cancel(self) -> None:
        """End it as Airflow's supervisor does: SIGTERM, and SIGKILL as it is still there."""
        self.tell()
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def tell(self) -> None:
        """SIGTERM, which it has got when this returns."""
        self.send(signal.SIGTERM)
        assert self._hear() == TOLD

    def result(self) -> str:
        """Wait for its end; empty when all went well, else the error."""
        said = self._hear()
        assert said == DONE or said.startswith(FAILED), said
        return said.removeprefix(FAILED) if said != DONE else ""

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def staging_of(run: Run) -> Path:
    """Where runs keep their folders."""
    return Path(run.folder.path("plan.json")).parents[1]


def _describe(run: Run) -> dict[str, Any]:
    common = {
        "staging": str(staging_of(run)),
        "run_id": run.run_id,
        "states": [[*key, state] for key, state in run.states.items()],
    }
    if isinstance(run, Build):
        sizes = {name: getattr(run, name) for name in ("rows_per_task", "rows_in_memory", "slice_rows")}
        return {**common, "root": str(run.sandbox.root), "request": asdict(run.request), "sizes": sizes}
    where = {"root": str(run.postgres.root), "database": run.database, "server": run.server.url}
    return {**common, **where, "params": run.params}


def _made(order: dict[str, Any]) -> Run:
    staging = Path(order["staging"])
    run: Run
    if "request" in order:
        request = BuildRequest.from_dict(order["request"])
        run = Build(Sandbox.load(Path(order["root"])), staging, request.database, order["run_id"], {})
        run.request = request
        for name, value in order["sizes"].items():
            setattr(run, name, value)
    else:
        run = Reindex(
            Postgres(Path(order["root"])),
            order["database"],
            cast(EmbeddingServer, Elsewhere(order["server"])),
            staging,
            order["run_id"],
            **order["params"],
        )
    run.folder = Folder.at(str(staging / order["run_id"]))
    run.states = {(dag, other): state for dag, other, state in order["states"]}
    return run


def hold(at: str, call: int, after: bool, stop: Callable[[], None]) -> None:
    """Stop before or after a call of a function."""
    module, _, path = at.partition(":")
    owner, _, name = path.rpartition(".")
    place = pkgutil.resolve_name(f"{module}:{owner}")
    real, calls = getattr(place, name), 0

    def wrapped(*values: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return real(*values, **options)
        if not after:
            stop()
        result = real(*values, **options)
        if after:
            stop()
        return result

    setattr(place, name, wrapped)


def _say(text: str) -> None:
    # Not print: a signal's handler may interrupt one.
    os.write(1, f"{text}\n".encode())


def main() -> None:
    """Do what was ordered."""
    pipeline.WRITE_PARTS = WRITE_PARTS
    mock.patch.object(integer_reader, "Wire", partial(Wire, buffer_bytes=FETCH_BYTES)).start()
    claim.BEAT_SECONDS = 0.1
    order = json.loads(sys.stdin.readline())
    run = _made(order)

    def stop() -> None:
        _say(HELD)
        sys.stdin.readline()

    signal.signal(signal.SIGTERM, lambda *_: _say(TOLD))
    if order["at"]:
        hold(order["at"], order["call"], order["after"], stop)
    try:
        getattr(run, order["step"])(*([] if order["number"] is None else [order["number"]]))
    except Exception as error:
        _say(f"{FAILED}{type(error).__name__}: {' '.join(str(error).split())}")
    else:
        _say(DONE)


if __name__ == "__main__":
    main()
