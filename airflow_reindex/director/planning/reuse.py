"""Reuse of sorted runs staged by an earlier run, for chunks whose tables are unchanged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from airflow_reindex.core.staging import Folder
from airflow_reindex.director.extract.run_buffer import layout
from airflow_reindex.director.model.plan import Plan, PlannedChunk
from airflow_reindex.director.model.runs import RUNS, Manifest, manifests

log = logging.getLogger(__name__)

#: A run of which a smaller share still counts is dropped: every build would read its other rows in vain.
LEAST_SHARE = 0.5


def reuse_runs(folder: Folder, sources: Sequence[Folder], draft: Plan) -> tuple[Manifest, ...]:
    """
    Reuse the staged runs whose chunks are unchanged, also those of other folders; remove the rest.

    A run of which some chunks have changed is reused without these.

    :param sources: the folders to search, the run's own included.
    :param draft: the plan as it would be if nothing were staged.
    :returns: the manifests of the runs, each with the chunks that count.
    """
    planned = {chunk.chunk: chunk for group in draft.groups for chunk in group}
    reused: list[Manifest] = []
    seen: set[int] = set()
    for source in sources:
        there = {f"{RUNS}/{name}" for name in source.names(RUNS)}
        for found in list(manifests(source)):
            files = {file.name for file in found.files}
            # A plan task that died while moving runs has moved files without their manifest.
            if found.layout != layout(draft) or not files <= there:
                continue
            manifest = _of_use(found, planned, seen)
            if manifest is None:
                continue
            if source is not folder:
                for name in (*sorted(files), manifest.name):
                    folder.move_from(source, name)
            seen |= {chunk.chunk for chunk in manifest.chunks}
            reused.append(manifest)
    keep = {name for m in reused for name in (m.name, *(file.name for file in m.files))}
    for name in folder.names(RUNS):
        if f"{RUNS}/{name}" not in keep:
            folder.remove(f"{RUNS}/{name}")
    if reused:
        log.info("%s staged runs with %s chunks are reused", len(reused), len(seen))
    return tuple(reused)


def keep_runs(folder: Folder, staged: Sequence[Manifest], kept: Folder) -> None:
    """Keep a finished build's runs for the next one; whatever ``kept`` has is removed."""
    kept.remove(RUNS)
    for manifest in staged:
        # The manifest last: without it no file counts.
        for name in (*(file.name for file in manifest.files), manifest.name):
            kept.move_from(folder, name)


def _of_use(manifest: Manifest, planned: Mapping[int, PlannedChunk], seen: set[int]) -> Manifest | None:
    """The manifest without what has changed or is reused already; ``None`` when too little is left."""
    gone = [
        staged.chunk
        for staged in manifest.chunks
        if not staged.fingerprint
        or staged.chunk in seen
        or staged.chunk not in planned
        or planned[staged.chunk].fingerprints.get(staged.worker) != staged.fingerprint
    ]
    left = manifest.without(gone) if gone else manifest
    return left if left.chunks and left.rows >= LEAST_SHARE * manifest.rows else None
