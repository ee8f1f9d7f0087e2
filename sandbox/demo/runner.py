"""What the demonstrations share: a private Airflow whose runs are shown as they go."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sandbox.servers import processes
from sandbox.servers.datadir import SandboxError

_TERMINAL = sys.stdout.isatty()
_LINE = re.compile(r"\S+Z \[(?P<level>\w+) *\] (?P<text>.*?) +\[(?P<logger>[\w.]+)\]")
_TASK = re.compile(r"\[DAG TEST\] (?P<what>starting|end task) task_id=(?P<task>\w+) map_index=(?P<index>-?\d+)")
_STATE = re.compile(r"\bnew_state=(\w+)")


@dataclass
class Stage:
    """A private Airflow, and a console.

    :param state: folder of everything that is made; what lies there from an earlier call is used again
    :param dags: the folder with the project's DAGs
    :param connections: Airflow's connections, environment variable to JSON
    """

    state: Path
    dags: Path
    connections: dict[str, str] = field(default_factory=dict)
    # Without a terminal, rich would take 80 columns and no colours.
    console: Console = field(default_factory=lambda: Console(highlight=False, width=None if _TERMINAL else 160))
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str, style: str = "") -> None:
        """One line with the time since the start.

        :param text: the line
        :param style: rich's style
        """
        self.console.print(f"{time.monotonic() - self.began:6.1f} s  {text}", style=style, markup=False, soft_wrap=True)

    def prepare(self) -> None:
        """End what a demonstration that was killed has left, and make Airflow's database."""
        for pid in processes.find(self._mark):
            processes.end(pid, self._mark, grace_seconds=0)
        self._log.unlink(missing_ok=True)
        mark = self.state / "airflow" / f"migrated-{version('apache-airflow-core')}"
        if not mark.exists():
            self.say("airflow db migrate")
            if self._airflow("db", "migrate"):
                raise SandboxError(f"airflow db migrate failed\n{self.tail()}")
            mark.touch()

    def run_dag(self, dag_id: str, conf: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Run a DAG by `airflow dags test`.

        :param dag_id: the DAG
        :param conf: the run's params
        :returns: the exit status, and the run's report
        :raises SandboxError: if there is no report
        """
        arguments = ("dags", "test", dag_id, "-c", json.dumps(conf))
        self.say(f"airflow {shlex.join(arguments)}", "bold")
        runs = self.state / "staging" / dag_id
        before = set(runs.glob("*"))
        status = self._airflow(*arguments)
        for folder in set(runs.glob("*")) - before:
            if (folder / "report.json").exists():
                report: dict[str, Any] = json.loads((folder / "report.json").read_text())
                return status, report
        raise SandboxError(f"the run ended with exit status {status} and left no report\n{self.tail()}")

    def test_dag(self, dag_id: str, conf: Mapping[str, Any]) -> None:
        """Run a DAG that leaves no report.

        :param dag_id: the DAG
        :param conf: the run's params
        :raises SandboxError: if it fails
        """
        arguments = ("dags", "test", dag_id, "-c", json.dumps(conf))
        self.say(f"airflow {shlex.join(arguments)}", "bold")
        if self._airflow(*arguments):
            raise SandboxError(f"{dag_id} failed\n{self.tail()}")

    def show_phases(self, report: Mapping[str, Any], unit: str) -> None:
        """A table of what each step did.

        :param report: the run's report
        :param unit: what its rows are
        """
        table = Table("phase")
        for name in ("tasks", unit, "seconds", f"{unit}/s"):
            table.add_column(name, justify="right")
        for phase in report["phases"]:
            rate = f"{phase['rows'] / phase['seconds']:,.0f}" if phase["seconds"] else ""
            table.add_row(phase["name"], f"{phase['tasks']}", f"{phase['rows']:,}", f"{phase['seconds']:.2f}", rate)
        self.console.print(table)

    def tail(self) -> str:
        """The end of Airflow's output."""
        lines = self._log.read_text(encoding="utf-8").splitlines()[-40:]
        return "\n".join([f"the end of {self._log}:", *lines])

    def _airflow(self, *arguments: str) -> int:
        """Run Airflow with nothing of this process's own Airflow settings; its output goes to the log."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FORCE_COLOR"))}
        env |= {
            **self.connections,
            "AIRFLOW_HOME": str(self.state / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__REINDEX__STAGING_URL": str(self.state / "staging"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-X", self._mark, "-m", "airflow", *arguments]
        # In a group of its own: Ctrl-C reaches this process alone, which then ends Airflow and stops the servers.
        with (
            self._log.open("a", encoding="utf-8") as log,
            subprocess.Popen(  # noqa: S603 - a list of arguments of its own, no shell
                command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", process_group=0,
            ) as process,
        ):  # fmt: skip
            try:
                self._follow(process, log)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode

    def _follow(self, process: subprocess.Popen[str], log: Any) -> None:
        """Copy the output to the log, and say what a reader wants to know: tasks, and the product's own lines."""
        task, state, started = "", "", time.monotonic()
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            found = _LINE.match(line)
            if found is None:
                continue
            if changed := _STATE.search(line):
                state = changed[1]
            if step := _TASK.match(found["text"]):
                if step["what"] == "starting":
                    task = step["task"] + (f"[{step['index']}]" if step["index"] != "-1" else "")
                    started = time.monotonic()
                    self.say(f"{task:<11} starts")
                else:
                    spent = time.monotonic() - started
                    self.say(
                        f"{task:<11} {state} after {spent:.1f} s", "" if state in ("success", "skipped") else "red"
                    )
            elif "airflow_reindex" in found["logger"]:
                style = {"warning": "yellow", "error": "red"}.get(found["level"], "")
                self.say(f"{task:<11} " + found["text"], style)

    @property
    def _log(self) -> Path:
        return self.state / "demo" / "airflow.log"

    @property
    def _mark(self) -> str:
        """An argument, without a meaning to Python, by which the demonstration's Airflow is recognised."""
        return f"demo={self.state}"
