"""An extract task: reads its own group or, while its worker is busy, another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import MySQLdb

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination.scheduler import GroupScheduler, next_group
from airflow_reindex.director.coordination.throttle import LOOK_SECONDS, ConnectionSlots, Watch
from airflow_reindex.director.extract.extractor import Extractor, ExtractOutcome
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.model.plan import Plan, PlannedChunk
from airflow_reindex.director.model.records import read_group
from airflow_reindex.director.model.runs import RUNS, Manifest, accounted, group_of, manifests
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.mysql.client import session

log = logging.getLogger(__name__)

#: Seconds between two looks for work of an extract task that has nothing to do.
WAIT_SECONDS = 1.0


class Extraction:
    """An extract task at work, with ``capacity`` rows in each of two buffers."""

    def __init__(self, servers: Servers, folder: Folder, plan: Plan, capacity: int) -> None:
        self._servers, self._folder, self._plan, self._capacity = servers, folder, plan, capacity
        self._helped: set[int] = set()

    def run(self, own: int, todo: Sequence[PlannedChunk], watch: Watch) -> ExtractOutcome:
        """
        Read the task's own group, and others as long as it has to wait.

        :param todo: the own group's chunks that are not staged.
        :returns: the outcome of the own group.
        """
        with session(self._servers.czar) as czar:
            scheduler = GroupScheduler(czar, self._plan.token, self._servers.worker_connections)
            ConnectionSlots(czar, self._servers.tables(self._plan.request).mark).acquire()
            watch.beside(scheduler.stay)
            while todo:
                group = next_group(own, self._plan.first_workers, self._untouched, scheduler)
                if group is None:
                    watch.wait(WAIT_SECONDS)
                    continue
                chunks = todo if group == own else read_group(self._folder, self._plan, group)
                if group != own:
                    log.info("the worker of this group is busy: reading group %s meanwhile", group)
                    self._helped.add(group)
                # Another task may have read it meanwhile.
                outcome = self._read(group, self._missing(group, chunks), scheduler, watch)
                if group == own:
                    return outcome
        return ExtractOutcome()

    def _read(
        self, group: int, chunks: Sequence[PlannedChunk], scheduler: GroupScheduler, watch: Watch
    ) -> ExtractOutcome:
        def acquire_slot(worker: str) -> None:
            while not scheduler.acquire_slot(worker):
                watch.wait(LOOK_SECONDS)

        outcome = ExtractOutcome()
        try:
            outcome = self._once(group, chunks, watch, acquire_slot)
            left = self._missing(group, chunks)
            if left and not outcome.failures:
                # The same task was delivered twice, and the two deliveries cut their runs differently.
                outcome = self._once(group, left, watch, acquire_slot)
        finally:
            # A broken session has released its locks; the user must see the chunks that failed.
            with suppress(*([MySQLdb.Error] if outcome.failures else [])):
                scheduler.end(group)
        return outcome

    def _once(
        self, group: int, chunks: Sequence[PlannedChunk], watch: Watch, acquire_slot: Callable[[str], None]
    ) -> ExtractOutcome:
        with RunBuffer(self._folder, self._plan, group, self._capacity) as buffer:
            return Extractor(self._plan, self._servers.workers, buffer, watch, acquire_slot).run(chunks)

    def _missing(self, group: int, chunks: Sequence[PlannedChunk]) -> list[PlannedChunk]:
        return missing_chunks(chunks, accounted(manifests(self._folder, group), self._plan.token))

    def _untouched(self) -> set[int]:
        """The groups of which nothing is staged, and that this task has not tried already."""
        names = (f"{RUNS}/{name}" for name in self._folder.names(RUNS) if name.endswith(".json"))
        begun = {group_of(name) for name in names if name not in self._plan.adopted}
        return set(range(len(self._plan.first_workers))) - begun - self._helped


def missing_chunks(group: Sequence[PlannedChunk], staged: Sequence[Manifest]) -> list[PlannedChunk]:
    """The chunks of a mapped task that are not staged yet, according to the manifests that count."""
    there = {chunk.chunk for manifest in staged for chunk in manifest.chunks}
    return [chunk for chunk in group if chunk.chunk not in there]
