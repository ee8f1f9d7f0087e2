"""The proof before the swap: the shadow table has what was read, and the workers still have the same."""

from __future__ import annotations

import logging

from airflow_reindex.core.failures import Code, TransientError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.throttle import Watch
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.request import ChangedChunks
from airflow_reindex.director.model.runs import Manifest, named
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.split import Split
from airflow_reindex.director.publish.changes import CHANGES, Change, Changes, find_changes, refuse_changes
from airflow_reindex.director.publish.rereading import Rereader
from airflow_reindex.director.publish.verification import verify

log = logging.getLogger(__name__)

#: The number of times that changing chunks are read again before this attempt of the task fails.
REREADS = 3


class Proof:
    """
    Proves a shadow table, and applies the request's policy to chunks that have changed since they were read.

    :param capacity: rows of chunks read again in each of two buffers.
    """

    def __init__(
        self, servers: Servers, build: IndexBuild, folder: Folder, plan: Plan, split: Split, capacity: int, watch: Watch
    ) -> None:
        self._servers, self._build, self._folder, self._plan, self._split = servers, build, folder, plan, split
        self._capacity, self._watch = capacity, watch
        self._policy = plan.request.changed_chunks

    def run(self) -> int:
        """
        Prove the table; changes are written into the run's folder, for the report.

        :returns: the number of rows in the table.
        :raises DataError: when the table is not what was read, or chunks have changed and the request forbids that.
        :raises TransientError: when chunks that were to be read again keep changing, or whether they have is unknown.
        """
        staged = named(self._folder, self._split.manifests)
        if self._policy is ChangedChunks.WARN:
            rows = self._verified(staged)
            self._tell(find_changes(self._servers, self._plan, staged))
            return rows
        reread: dict[int, Change] = {}
        changes = self._look(staged)
        for _ in range(REREADS):
            if changes.chunks:
                staged = self._reread(changes, staged)
                reread |= {change.chunk: change for change in changes.chunks}
            rows = self._verified(staged)
            changes = self._look(staged)
            if not changes.chunks:
                self._tell(Changes(tuple(change for _, change in sorted(reread.items())), {}, changes.untold))
                return rows
        raise TransientError(
            f"{changes.text}; they kept changing while they were read again. Nothing was published.",
            code=Code.CHANGED_CHUNKS,
        )

    def _look(self, staged: list[Manifest]) -> Changes:
        changes = find_changes(self._servers, self._plan, staged)
        if self._policy is ChangedChunks.FAIL:
            refuse_changes(changes)
        elif changes.silent:
            worker, text = next(iter(changes.silent.items()))
            raise TransientError(
                f"worker '{worker}' does not tell whether its chunk tables have changed since they were read: {text}",
                code=Code.CONNECTION,
            )
        return changes

    def _reread(self, changes: Changes, staged: list[Manifest]) -> list[Manifest]:
        log.info("%s: reading them again", changes.text)
        rereader = Rereader(
            self._servers, self._build, self._folder, self._plan, self._split, self._capacity, self._watch
        )
        return rereader.run(changes, staged)

    def _verified(self, staged: list[Manifest]) -> int:
        return verify(self._servers.czar, self._build, self._plan.key_column, self._split, staged, self._watch)

    def _tell(self, changes: Changes) -> None:
        if changes.chunks and self._policy is ChangedChunks.WARN:
            log.warning(
                "%s. The index has their rows as they were read: trigger a new run, which reads only these again",
                changes.text,
            )
        for worker, text in changes.silent.items():
            log.warning("worker %s does not tell whether its chunk tables have changed: %s", worker, text)
        if changes.untold:
            log.info("%s chunk tables do not tell whether they were written meanwhile", changes.untold)
        self._folder.write_json(CHANGES, changes.as_dict(self._policy))
