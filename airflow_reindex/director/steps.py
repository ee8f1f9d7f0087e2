"""The steps of a build after its plan, one function per task; each can be repeated and does only what is left."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import asdict

import MySQLdb

from airflow_reindex.core.failures import ClaimLostError, Code, DataError, RequestError, TransientError
from airflow_reindex.core.memory import rows_that_fit
from airflow_reindex.core.report import Failure
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.coordination.throttle import Watch
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.extract.extractor import ExtractOutcome, unaccounted
from airflow_reindex.director.extract.task import Extraction, missing_chunks
from airflow_reindex.director.load import merge
from airflow_reindex.director.load.loader import Loaded, RangeLoader
from airflow_reindex.director.load.merge import Merger
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import (
    read_group,
    read_groups,
    read_source,
    read_split,
    recorded,
    write_split,
)
from airflow_reindex.director.model.runs import Manifest, accounted, manifests, named
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.split import SLICE_ROWS, RunFiles, Split, make_split
from airflow_reindex.director.model.tables import index_definition
from airflow_reindex.director.mysql.client import NO_SUCH_TABLE, code_of, drop_table, prepare, session
from airflow_reindex.director.publish.proof import Proof
from airflow_reindex.director.publish.verification import Published, roll_back_statement

log = logging.getLogger(__name__)


def extract_group(servers: Servers, folder: Folder, plan: Plan, group: int, memory: int) -> ExtractOutcome:
    """Stage the chunks of one group of a build; errors are those of :func:`stage_group`."""
    keeping = claim.keeping(servers.czar, servers.tables(plan.request), plan.token)
    return stage_group(servers, folder, plan, group, memory, keeping)


def stage_group(
    servers: Servers, folder: Folder, plan: Plan, group: int, memory: int, watching: AbstractContextManager[Watch]
) -> ExtractOutcome:
    """
    Stage the chunks of one group that are not staged yet; while its worker has no free slot, those of other groups.

    :param memory: bytes that the task may take.
    :param watching: entered while the task works.
    :raises TransientError: when chunks failed, and a retry may help.
    :raises DataError: when chunks failed for good.
    """
    with recorded(folder, "extract", group, plan.token) as record:
        chunks = read_group(folder, plan, group)
        todo = missing_chunks(chunks, accounted(manifests(folder, group), plan.token))
        if len(todo) < len(chunks):
            log.info("%s of %s chunks are staged already", len(chunks) - len(todo), len(chunks))
        extraction = Extraction(servers, folder, plan, rows_that_fit(memory, run_buffer.BYTES_PER_ROW))
        with watching as watch:
            outcome = extraction.run(group, todo, watch)
        record.rows, record.failures = outcome.rows, outcome.failures
        record.result = {"chunks": outcome.chunks, "bytes": outcome.bytes}
        _raise_for_failures(outcome, len(todo))
    return outcome


def _raise_for_failures(outcome: ExtractOutcome, chunks: int) -> None:
    if outcome.failures:
        failed = len({failure.chunk for failure in outcome.failures})
        first = outcome.failures[0]
        text = (
            f"{failed} of {chunks} chunks failed, the others are staged; first: chunk {first.chunk} of worker "
            f"'{first.worker}': {first.message}"
        )
        kind = TransientError if outcome.transient else DataError
        raise kind(text, code=first.kind)


def staged_runs(folder: Folder, plan: Plan) -> list[Manifest]:
    """The manifests that count for a plan; each chunk is in exactly one of them."""
    return accounted(manifests(folder), plan.token, plan.adopted)


def split_build(
    servers: Servers, folder: Folder, plan: Plan, rows_per_task: int, *, slice_rows: int = SLICE_ROWS
) -> Split:
    """
    Cut the key space, and create the shadow table.

    :raises DataError: when chunks are not staged.
    """
    with recorded(folder, "split", token=plan.token) as record:
        tables = servers.tables(plan.request)
        staged = staged_runs(folder, plan)
        missing = unaccounted(read_groups(folder, plan), staged)
        if missing:
            raise DataError(
                f"{len(missing)} chunks are not staged, such as {', '.join(map(str, missing[:5]))}: clear the failed "
                "extract tasks.",
                code=Code.STALE_PLAN,
            )
        if sum(len(manifest.chunks) for manifest in staged) != plan.chunks:
            raise DataError(
                "reused runs are gone from the staging folder: clear this run from its task 'plan' on.",
                code=Code.STALE_PLAN,
            )
        split = make_split(plan.token, staged, rows_per_task, slice_rows)
        with claim.keeping(servers.czar, tables, plan.token), session(servers.czar) as czar:
            IndexBuild(czar, tables, plan.token, split.build).create(index_definition(plan))
        write_split(folder, split, RunFiles.of(staged))
        record.rows = split.rows
        record.result = {"ranges": len(split.ranges), "bytes": sum(f.bytes for m in staged for f in m.files)}
        log.info("%s rows in %s runs, %s key ranges", f"{split.rows:,}", len(staged), len(split.ranges))
    return split


def load_range(servers: Servers, folder: Folder, plan: Plan, build: str, number: int, memory: int) -> Loaded:
    """
    Load one key range into the shadow table.

    :param build: the split that it belongs to.
    :raises DataError: when keys of a unique index occur twice.
    """
    with recorded(folder, "load", number, plan.token) as record:
        split = read_split(folder)
        if split.build != build:
            raise RequestError(
                "the split is not the one this task was made for: clear this run from 'split' on.", code=Code.STALE_PLAN
            )
        tables, transport = servers.tables(plan.request), servers.transport(plan.request)
        merger = Merger(folder, read_source(folder), rows_that_fit(memory, merge.BYTES_PER_ROW))
        with claim.keeping(servers.czar, tables, plan.token) as watch, session(servers.czar) as czar:
            loader = RangeLoader(IndexBuild(czar, tables, plan.token, build), plan, transport, watch, servers.data_dir)
            loaded = loader.run(merger, split.ranges[number])
        record.rows = loaded.rows
        if loaded.duplicates:
            staged = named(folder, split.manifests)
            worker_of = {chunk.chunk: chunk.worker for manifest in staged for chunk in manifest.chunks}
            table = plan.request.director_table
            record.failures = [
                Failure(table=table, worker=worker_of[chunk], chunk=chunk, message=message, kind=Code.DUPLICATE_KEYS)
                for chunk, message in sorted(loaded.duplicates.items())
            ]
            first = record.failures[0]
            raise DataError(
                f"duplicate keys in {len(loaded.duplicates)} chunks; first: chunk {first.chunk} of worker "
                f"'{first.worker}': {first.message}. Mend the catalog and trigger a new run, which reads the "
                "changed chunks again; or use unique_primary_key=0.",
                code=Code.DUPLICATE_KEYS,
            )
    return loaded


def publish_build(servers: Servers, folder: Folder, plan: Plan, memory: int) -> Published:
    """
    Verify the shadow table and swap it in; when that has happened already, only clean up.

    :raises DataError: when the shadow table is not what was extracted.
    """
    with recorded(folder, "publish", token=plan.token) as record:
        split = read_split(folder)
        tables = servers.tables(plan.request)
        rows = split.rows
        czar = prepare(servers.czar())
        try:
            build = IndexBuild(czar, tables, plan.token, split.build)
            if not build.is_swapped():
                try:
                    rows = _prove_and_swap(servers, build, folder, plan, split, memory)
                except ClaimLostError:
                    # The same task was delivered twice, and the other delivery has swapped.
                    if not build.is_swapped():
                        raise
                log.info("index %s.%s is published", tables.database, tables.index)
            # A statement whose answer got lost is no proof: the renamed claim is.
            if not build.is_swapped():
                raise TransientError("the swap left no mark")
            previous = build.tidy(keep_previous=plan.request.keep_previous)
            published = Published(rows, previous, roll_back_statement(tables, previous) if previous else "")
        finally:
            czar.close()
        # Only this run's: the claim is free again, and another build may be loading.
        servers.transport(plan.request).sweep(f"{tables.mark}-{plan.token}")
        record.rows, record.result = published.rows, asdict(published)
    return published


def _prove_and_swap(servers: Servers, build: IndexBuild, folder: Folder, plan: Plan, split: Split, memory: int) -> int:
    """Returns the number of rows in the table that was swapped in."""
    capacity = rows_that_fit(memory, run_buffer.BYTES_PER_ROW)
    try:
        with claim.keeping(servers.czar, build.tables, build.token) as watch:
            rows = Proof(servers, build, folder, plan, split, capacity, watch).run()
            build.finish_table()
            build.swap(watch.check, rebuild=plan.request.rebuild)
    except MySQLdb.Error as error:
        if code_of(error) == NO_SUCH_TABLE and not build.can_swap():
            raise claim.lost(build.tables) from error
        raise
    return rows


def finish_build(servers: Servers, plan: Plan) -> None:
    """Remove the mark of a swap whose report is written."""
    with session(servers.czar) as czar:
        drop_table(czar, IndexBuild(czar, servers.tables(plan.request), plan.token).done)
