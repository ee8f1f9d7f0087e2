"""The demonstration of both jobs."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from sandbox.demo.demo_collection import show_collection
from sandbox.demo.demo_director import show_director_index
from sandbox.demo.runner import Stage
from sandbox.servers.datadir import SandboxError

PARTS = {"director": show_director_index, "collection": show_collection}


def run(state: Path, dags: Path, parts: tuple[str, ...] = tuple(PARTS)) -> None:
    """Run the demonstration.

    :param state: folder of everything that it makes; what lies there from an earlier call is used again
    :param dags: the folder with the project's DAGs
    :param parts: which jobs
    :raises SandboxError: if something comes out otherwise than it should
    """
    if not (dags / "build_director_index.py").is_file():
        raise SandboxError(f"{dags} holds no DAGs: the demonstration needs a checkout of the project")
    # The servers must be stopped, and Airflow with them, when somebody ends this process.
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda number, _: sys.exit(128 + number))
    (state / "demo").mkdir(parents=True, exist_ok=True)
    with _alone(state / "demo"):
        stage = Stage(state.absolute(), dags.absolute())
        stage.prepare()
        for part in parts:
            PARTS[part](stage)
        stage.say("done")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxError("another demonstration is running in this folder") from None
        yield
