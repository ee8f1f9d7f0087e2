"""An audit made of its step functions, against the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_reindex.core.claims import Owner
from airflow_reindex.core.failures import DataError
from airflow_reindex.core.report import Report
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.audit import steps
from airflow_reindex.director.audit.index import state_of
from airflow_reindex.director.audit.report import make_report
from airflow_reindex.director.audit.request import AuditRequest
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import read_plan, read_split
from airflow_reindex.director.mysql.client import session
from airflow_reindex.director.planning.planning import RunContext
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, sandbox_servers

MEMORY = 512 << 20
STATES: dict[str, dict[int, str]] = {"plan": {-1: "success"}, "extract": {}, "split": {-1: "success"}, "compare": {}}


class Audit:
    def __init__(self, sandbox: Sandbox, folder: Path, database: str, **params: Any) -> None:
        self.servers, self.folder = sandbox_servers(sandbox), Folder.at(str(folder / "audit"))
        names = {"database": database, "director_table": "Object"}
        self.request = AuditRequest.parse({**names, **params}, "run")

    def plan(self) -> Plan:
        run = RunContext(
            owner=Owner("tests", "audit_director_index", "run", "localhost", self.folder.url),
            conn_id="qserv_default",
            state_of=lambda *_: None,
            claim_timeout=300.0,
            rows_per_task=1_500,
            memory=MEMORY,
            open_folder=Folder.at,
        )
        return steps.plan_audit(self.servers, self.request, self.folder, run)

    def run(self) -> Report:
        """All steps; what fails is left to the report, as Airflow does."""
        plan = self.plan()
        for group in range(len(plan.groups)):
            try:
                steps.extract_group(self.servers, self.folder, read_plan(self.folder, plan.token), group, MEMORY)
            except DataError:
                continue
        steps.split_audit(self.servers, self.folder, plan, 1_500, slice_rows=Build.slice_rows)
        return self.compare()

    def compare(self) -> Report:
        """The steps after the split."""
        plan = read_plan(self.folder)
        for key_range in read_split(self.folder).ranges:
            steps.compare_range(self.servers, self.folder, plan, key_range.number, MEMORY)
        return self.report()

    def report(self) -> Report:
        with session(self.servers.czar) as czar:
            present = state_of(czar, self.servers.tables(read_plan(self.folder).request))
        report, _ = make_report(self.folder, "run", STATES, "a", "b", present)
        return report
