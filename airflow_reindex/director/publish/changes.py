"""Chunk tables that have changed since they were read: found before the swap, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.core.report import QUOTED_FAILURES
from airflow_reindex.director.model.inventory import cannot_tell, count_rows, describe_change, inventories
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.request import ChangedChunks
from airflow_reindex.director.model.runs import Manifest, StagedChunk
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.mysql.client import describe, session

#: The findings, in the run's folder: written before the swap, so that a retry after it has them, too.
CHANGES = "changes.json"


@dataclass(frozen=True)
class Change:
    """
    A chunk table that has changed since it was read.

    :param chunk: its number.
    :param worker: the worker that it was read from.
    :param text: the differences, for people.
    """

    chunk: int
    worker: str
    text: str


@dataclass(frozen=True)
class Changes:
    """
    All changes since the chunk tables were read.

    :param chunks: ascending by chunk number.
    :param silent: workers that do not answer, each with its error: whether their tables have changed is unknown.
    :param untold: the number of tables that cannot tell: views, and InnoDB's after a restart of their server.
    """

    chunks: tuple[Change, ...]
    silent: Mapping[str, str]
    untold: int

    @property
    def text(self) -> str:
        """The number of changed tables, and the first one; empty when nothing has changed."""
        if not self.chunks:
            return ""
        first = self.chunks[0]
        return (
            f"{len(self.chunks)} chunk table(s) changed after they were read; first: chunk {first.chunk} of worker "
            f"'{first.worker}': {first.text}"
        )

    def as_dict(self, policy: ChangedChunks) -> dict[str, Any]:
        """The report's note as plain JSON types, with the request's policy and at most the first hundred chunks."""
        first = [{"chunk": c.chunk, "worker": c.worker, "change": c.text} for c in self.chunks[:QUOTED_FAILURES]]
        value = {"count": len(self.chunks), "chunks": first, "not_compared": dict(self.silent), "untold": self.untold}
        return {"policy": policy, **{name: found for name, found in value.items() if found}}


def find_changes(servers: Servers, plan: Plan, staged: Sequence[Manifest]) -> Changes:
    """Compare the chunk tables with their states when they were read."""
    read = [chunk for manifest in staged for chunk in manifest.chunks]
    asked = {worker: servers.workers[worker] for worker in {chunk.worker for chunk in read} & set(servers.workers)}
    tables, silent = inventories(asked, plan.request)
    changes, untold, emptied = [], 0, []
    for chunk in sorted(read, key=lambda chunk: chunk.chunk):
        if chunk.worker not in tables:
            continue
        info = tables[chunk.worker].get(chunk.chunk)
        if info is None:
            changes.append(Change(chunk.chunk, chunk.worker, "the table is gone"))
        elif text := describe_change(chunk.state, info.state):
            changes.append(Change(chunk.chunk, chunk.worker, text))
        elif chunk.checksum.rows and not info.rows and not info.exact:
            emptied.append(chunk)
        else:
            untold += cannot_tell(chunk.state, info.state)
    changes += _emptied(servers, plan, emptied)
    told = {worker: describe(error) for worker, error in sorted(silent.items())}
    return Changes(tuple(sorted(changes, key=lambda change: change.chunk)), told, untold)


def _emptied(servers: Servers, plan: Plan, suspects: Sequence[StagedChunk]) -> Iterator[Change]:
    """Changes of tables that are empty by an estimate, by real counts: TRUNCATE of InnoDB leaves no other trace."""
    for worker in sorted({chunk.worker for chunk in suspects}):
        with session(servers.workers[worker]) as connection:
            for chunk in (chunk for chunk in suspects if chunk.worker == worker):
                rows = count_rows(connection, plan.request, chunk.chunk)
                if rows != chunk.checksum.rows:
                    yield Change(chunk.chunk, worker, f"rows {chunk.checksum.rows} -> {rows}")


def refuse_changes(changes: Changes) -> None:
    """Raise :class:`DataError` when chunks have changed, or when it is unknown whether they have."""
    if changes.chunks:
        raise DataError(
            f"{changes.text}. Nothing was published (changed_chunks=fail): trigger a new run, which reads the changed "
            "chunks again, or use changed_chunks=reread.",
            code=Code.CHANGED_CHUNKS,
        )
    if changes.silent:
        worker, text = next(iter(changes.silent.items()))
        raise DataError(
            f"worker '{worker}' does not tell whether its chunk tables have changed since they were read "
            f"(changed_chunks=fail): {text}. Clear 'publish' when it answers.",
            code=Code.CONNECTION,
        )
