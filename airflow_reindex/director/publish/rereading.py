"""Reads chunks again that changed after they were loaded, and replaces their rows in the shadow table by slices."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import MySQLdb
import numpy as np

from airflow_reindex.core.failures import Code, DataError, TransientError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.throttle import Pace, Watch
from airflow_reindex.director.extract.extractor import Extractor
from airflow_reindex.director.extract.run_buffer import RunBuffer
from airflow_reindex.director.model.plan import Plan, PlannedChunk
from airflow_reindex.director.model.runs import Manifest, manifests, read_part
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.split import Split
from airflow_reindex.director.mysql.bulk_load import load_file, write_text
from airflow_reindex.director.mysql.client import DUPLICATE_KEY, code_of, execute, transaction
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.types import Rows
from airflow_reindex.director.publish.changes import Changes

log = logging.getLogger(__name__)

#: Stands for the number of a mapped task in the names of these runs: no plan has as many tasks.
REREAD_GROUP = 9_999

_Bound = int | None


class Rereader:
    """
    Reads changed chunks again, and makes the shadow table what it would be if they had been read like this at first.

    Each slice is a transaction, in which the changed chunks' rows are deleted, their present rows are loaded, and the
    marker gets the checksum of the result. Repeating it has the same effect.

    :param build: over a connection made with ``local_infile`` where the request asks for it.
    :param capacity: rows in each of two buffers.
    """

    def __init__(
        self,
        servers: Servers,
        build: IndexBuild,
        folder: Folder,
        plan: Plan,
        split: Split,
        capacity: int,
        watch: Watch,
    ) -> None:
        self._servers, self._build, self._folder, self._plan, self._split = servers, build, folder, plan, split
        self._capacity, self._watch, self._pace = capacity, watch, Pace(watch)
        self._transport = servers.transport(plan.request)

    def run(self, changes: Changes, staged: Sequence[Manifest]) -> list[Manifest]:
        """
        Read changed chunks again and replace their rows.

        :param staged: the manifests whose rows the shadow table has.
        :returns: the manifests whose rows it has now.
        :raises TransientError: when a chunk could not be read, and a retry may help.
        :raises DataError: when a chunk cannot be read, or has a key that another one has.
        """
        chunks = {change.chunk for change in changes.chunks}
        former = [manifest for manifest in staged if chunks & {chunk.chunk for chunk in manifest.chunks}]
        present = self._read([PlannedChunk(c.chunk, (c.worker,), 0, {}) for c in changes.chunks])
        if not self._split.ranges and any(manifest.rows for manifest in present):
            raise DataError(
                "a catalog that was empty when it was planned has rows now: clear this run from its task 'plan' on.",
                code=Code.STALE_PLAN,
            )
        rows = 0
        slices = self._slices([*former, *present], chunks)
        with self._transport.place() as place:
            for range_number, slice_number in slices:
                self._watch.check()
                rows += self._replace(range_number, slice_number, chunks, present, place)
        log.info("%s chunks were read again: %s rows in %s slices", len(chunks), f"{rows:,}", len(slices))
        return [*(_without(manifest, chunks) for manifest in staged), *present]

    def _read(self, chunks: Sequence[PlannedChunk]) -> list[Manifest]:
        earlier = {manifest.name for manifest in manifests(self._folder, REREAD_GROUP)}
        with RunBuffer(self._folder, self._plan, REREAD_GROUP, self._capacity) as buffer:
            outcome = Extractor(self._plan, self._servers.workers, buffer, self._watch).run(chunks)
        if outcome.failures:
            first = outcome.failures[0]
            text = f"chunk {first.chunk} of worker '{first.worker}', which has changed, was not read: {first.message}"
            kind = TransientError if outcome.transient else DataError
            raise kind(text, code=first.kind)
        return [manifest for manifest in manifests(self._folder, REREAD_GROUP) if manifest.name not in earlier]

    def _slices(self, concerned: Iterable[Manifest], chunks: set[int]) -> list[tuple[int, int]]:
        """Range and number of the slices that have or get rows of these chunks."""
        places = [(r.number, i) for r in self._split.ranges for i in range(len(r.bounds) - 1)]
        # Bounds are keys that were read, so they are of the keys' type.
        bounds = [bound for r in self._split.ranges for bound in r.bounds[1:] if bound is not None]
        cuts, wanted = np.array(bounds, self._plan.key.dtype), np.array(sorted(chunks), np.int32)
        found = np.zeros(len(places), bool)
        for manifest in concerned:
            for file in manifest.files:
                for rows in read_part(self._folder, file.name, None, None):
                    keys = rows.key[np.isin(rows.chunk, wanted)]
                    found[np.searchsorted(cuts, keys, side="right")] = True
        return [places[position] for position in np.flatnonzero(found).tolist()]

    def _replace(
        self, range_number: int, slice_number: int, chunks: set[int], present: Sequence[Manifest], place: Path
    ) -> int:
        """Replace the chunks' rows in one slice; returns the number of rows loaded."""
        low, high = self._split.ranges[range_number].slices()[slice_number]
        build = self._build
        stem = f"reindex-{build.tables.mark}-{build.token}-{build.split}-again"
        path = place / f"{stem}-{range_number}-{slice_number}.tsv"
        key, numbers = quote(self._plan.key_column), ",".join(map(str, sorted(chunks)))
        bounds = [(f"{key} >= %s", low), (f"{key} < %s", high)]
        where = " AND ".join([f"`chunkId` IN ({numbers})", *(text for text, bound in bounds if bound is not None)])
        loaded = 0
        try:
            with transaction(build.czar):
                build.fence()
                values = [bound for _, bound in bounds if bound is not None]
                execute(build.czar, f"DELETE FROM {build.shadow} WHERE {where}", values)  # noqa: S608 - names are quoted
                for rows in self._rows(present, low, high):
                    write_text(rows, path)
                    loaded += load_file(build.czar, self._transport, path, build.shadow, self._plan.key_column)
                    self._pace.add(len(rows), 1.0)
                found = build.checksum(self._plan.key_column, low, high)
                execute(
                    build.czar,
                    f"REPLACE INTO {build.marker_table} VALUES (%s, %s, %s, %s, %s, %s, NOW(6))",  # noqa: S608 - names are quoted
                    (range_number, slice_number, *astuple(found)),
                )
        except MySQLdb.Error as error:
            if code_of(error) == DUPLICATE_KEY:
                raise DataError(
                    f"a chunk that was read again has a key that another row has: {error.args[1]}",
                    code=Code.DUPLICATE_KEYS,
                ) from error
            raise
        finally:
            path.unlink(missing_ok=True)
        return loaded

    def _rows(self, present: Sequence[Manifest], low: _Bound, high: _Bound) -> Iterator[Rows]:
        for manifest in present:
            for file in manifest.files:
                if (high is None or file.low < high) and (low is None or file.high >= low):
                    yield from read_part(self._folder, file.name, low, high)


def _without(manifest: Manifest, chunks: set[int]) -> Manifest:
    gone = chunks & {chunk.chunk for chunk in manifest.chunks}
    return manifest.without(gone | {*manifest.dropped}) if gone else manifest
