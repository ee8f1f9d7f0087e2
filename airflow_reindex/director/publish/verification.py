"""Comparison of the shadow table with the staged runs, by checksums; and the statement that undoes a swap."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

from airflow_reindex.core.failures import Code, DataError
from airflow_reindex.core.progress import Progress
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.throttle import Pace, Watch
from airflow_reindex.director.model.runs import Manifest
from airflow_reindex.director.model.split import KeyRange, Split
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import Connect, session
from airflow_reindex.director.mysql.types import Checksum

log = logging.getLogger(__name__)

#: Connections that verify at the same time.
VERIFY_CONNECTIONS = 4
#: Slices that one statement verifies: a slow statement could not be throttled.
VERIFY_SLICES = 4


@dataclass(frozen=True)
class Published:
    """
    A swap that is proven.

    :param rows: rows in the index.
    :param previous: where the replaced index is kept, quoted; empty when it is not.
    :param roll_back: the statement that restores it.
    """

    rows: int
    previous: str = ""
    roll_back: str = ""


def verify(
    connect: Connect, build: IndexBuild, key_column: str, split: Split, staged: Sequence[Manifest], watch: Watch
) -> int:
    """
    Prove that the shadow table holds what left the workers: extracted = loaded, and loaded = found, by key range.

    :param staged: the manifests, with the checksums of the chunks as they were read.
    :returns: the number of rows in the table.
    :raises DataError: when something differs, with the range in which it does.
    """
    loaded = build.markers()
    rows = _check_loaded(staged, loaded)
    progress = Progress(log.info, "verify", rows)

    def one(key_range: KeyRange) -> None:
        with session(connect) as connection:
            _verify_range(replace(build, czar=connection), key_column, key_range, loaded, watch, progress)

    connections = min(VERIFY_CONNECTIONS, watch.limits.connections or VERIFY_CONNECTIONS)
    with ThreadPoolExecutor(connections, thread_name_prefix="reindex-verify") as pool:
        for _ in pool.map(one, split.ranges):
            pass
    progress.finish("counts and checksums agree")
    return rows


def _check_loaded(staged: Sequence[Manifest], loaded: Mapping[tuple[int, int], Checksum]) -> int:
    extracted = reduce(add, (c.checksum for manifest in staged for c in manifest.chunks), Checksum())
    total = reduce(add, loaded.values(), Checksum())
    if extracted != total:
        raise DataError(
            f"{extracted.rows} rows were extracted, but {total.rows} were loaded (or their contents differ): load "
            "tasks are missing or the staging folder was changed. Clear the failed load tasks, or this run from "
            "its task 'plan' on.",
            code=Code.INDEX_DIFFERS,
        )
    return total.rows


def _verify_range(
    build: IndexBuild,
    key_column: str,
    key_range: KeyRange,
    loaded: Mapping[tuple[int, int], Checksum],
    watch: Watch,
    progress: Progress,
) -> None:
    pace = Pace(watch)
    for first in range(0, len(key_range.bounds) - 1, VERIFY_SLICES):
        watch.check()
        bounds = key_range.bounds[first : first + VERIFY_SLICES + 1]
        slices = range(first, first + len(bounds) - 1)
        expected = reduce(add, (loaded.get((key_range.number, i), Checksum()) for i in slices))
        found = build.checksum(key_column, bounds[0], bounds[-1])
        if found != expected:
            raise DataError(
                f"{key_range.label}: {expected.rows} rows were loaded, but {found.rows} are in the shadow table (or "
                "their contents differ). Clear this run from its task 'plan' on.",
                code=Code.INDEX_DIFFERS,
            )
        progress.add(found.rows)
        pace.add(found.rows)


def roll_back_statement(tables: IndexTables, previous: str) -> str:
    """The one statement for the czar's server that puts the previous index back, whose name is quoted."""
    aside = tables.sql("replaced")
    return f"RENAME TABLE {tables.live} TO {aside}, {previous} TO {tables.live}".replace("%%", "%")
