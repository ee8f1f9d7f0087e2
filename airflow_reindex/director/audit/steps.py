"""The steps of an audit, one function per task; each can be repeated."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from uuid import uuid4

import MySQLdb
import numpy as np

from airflow_reindex.core.memory import rows_that_fit
from airflow_reindex.core.progress import Progress
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.audit import multiset_diff
from airflow_reindex.director.audit.comparison import Comparison
from airflow_reindex.director.audit.differences import SURPLUS, Differences
from airflow_reindex.director.audit.index import IndexReader, state_of
from airflow_reindex.director.audit.multiset_diff import MultisetDiff, Scope
from airflow_reindex.director.audit.request import AuditRequest
from airflow_reindex.director.coordination.throttle import Watch
from airflow_reindex.director.extract.extractor import ExtractOutcome
from airflow_reindex.director.load import merge
from airflow_reindex.director.load.merge import Merger
from airflow_reindex.director.model.catalog import DirectorTable
from airflow_reindex.director.model.inventory import Inventory
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.model.records import (
    read_groups,
    read_source,
    read_split,
    recorded,
    remove_earlier,
    write_plan,
    write_split,
)
from airflow_reindex.director.model.runs import RUNS
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.split import SLICE_ROWS, KeyRange, RunFiles, Split, key_type, make_split
from airflow_reindex.director.mysql.client import NO_SUCH_TABLE, code_of, connected, query, session
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.integer_reader import IntegerReader
from airflow_reindex.director.planning.planning import RunContext, describe_table, draft_plan
from airflow_reindex.director.steps import stage_group, staged_runs

log = logging.getLogger(__name__)

AUDIT, DIFFERENCES = "audit.json", "differences"
#: A sampled audit also checks whether some rows of the index are in their chunk tables: the number of blocks, and of
#: rows in a block.
BLOCKS, BLOCK_ROWS = 20, 100


def plan_audit(servers: Servers, request: AuditRequest, folder: Folder, run: RunContext) -> Plan:
    """
    Plan an audit: which chunks, read where, against which table.

    :raises RequestError: when the request is wrong, or there is no such index.
    """
    tables = servers.tables(request.index)
    with recorded(folder, "plan") as record, session(servers.czar) as czar:
        inventories, table = describe_table(czar, servers, request.index)
        state = state_of(czar, tables)
        chosen = _sampled(table, inventories, request)
        plan = draft_plan(servers, request.index, run, chosen, inventories, token=uuid4().hex[:16])
        remove_earlier(folder, AUDIT, DIFFERENCES, RUNS)
        write_plan(folder, plan)
        sampled = len(chosen.placement) < len(table.placement)
        folder.write_json(
            AUDIT,
            {
                "index": asdict(state),
                "sampled": sampled,
                "seed": request.seed,
                "chunks": len(chosen.placement),
                "of_chunks": len(table.placement),
            },
        )
        record.token, record.rows = plan.token, sum(c.rows for group in plan.groups for c in group)
        log.info("%s of %s chunks to compare (seed %s)", len(chosen.placement), len(table.placement), request.seed)
    return plan


def _sampled(table: DirectorTable, inventories: Inventory, request: AuditRequest) -> DirectorTable:
    """The table with only the chunks to compare; a sample leaves out chunks that are known to be empty."""
    wanted = request.chunks(len(table.placement))
    if wanted == len(table.placement):
        return table
    known = {chunk for tables in inventories.values() for chunk, info in tables.items() if not info.rows}
    candidates = sorted(set(table.placement) - known) or sorted(table.placement)
    random = np.random.default_rng(request.seed)
    chosen = random.choice(np.array(candidates), min(wanted, len(candidates)), replace=False).tolist()
    return replace(table, placement={chunk: table.placement[chunk] for chunk in sorted(chosen)})


def extract_group(servers: Servers, folder: Folder, plan: Plan, group: int, memory: int) -> ExtractOutcome:
    """Stage the chunks of one group, as a build does, but without a claim."""
    watch = Watch()
    watch.set(plan.request.limits, max(1, servers.worker_connections))
    return stage_group(servers, folder, plan, group, memory, nullcontext(watch))


def split_audit(
    servers: Servers, folder: Folder, plan: Plan, rows_per_task: int, *, slice_rows: int = SLICE_ROWS
) -> Split:
    """Cut the key space; a sampled audit also checks whether some rows of the index are in their chunk tables."""
    with recorded(folder, "split", token=plan.token) as record:
        staged = staged_runs(folder, plan)
        split = make_split(plan.token, staged, rows_per_task, slice_rows)
        if not split.ranges:
            # Nothing in the chunk tables: every row of the index is surplus.
            split = replace(split, ranges=(KeyRange(0, (None, None), 0),))
        write_split(folder, split, RunFiles.of(staged))
        if folder.read_json(AUDIT)["sampled"]:
            found = probe(servers, plan, folder.read_json(AUDIT)["seed"])
            folder.write_json(f"{DIFFERENCES}/probe.json", found.as_dict())
        record.rows = split.rows
    return split


def compare_range(servers: Servers, folder: Folder, plan: Plan, number: int, memory: int) -> Differences:
    """Compare one key range, within ``memory`` bytes."""
    with recorded(folder, "compare", number, plan.token) as record:
        key_range = read_split(folder).ranges[number]
        sampled = folder.read_json(AUDIT)["sampled"]
        scope = _scope(folder, plan, sampled=sampled)
        rows = rows_that_fit(memory, merge.BYTES_PER_ROW + multiset_diff.BYTES_PER_ROW)
        progress = Progress(log.info, f"compare {key_range.label}", key_range.rows)

        def compare() -> Comparison:
            index = IndexReader(reader, plan, servers.tables(plan.request))
            comparison = Comparison(index, MultisetDiff(scope, rows), progress.add)
            pieces = (piece.rows for piece in Merger(folder, read_source(folder), rows).pieces(key_range))
            if sampled:
                comparison.some(pieces)
            else:
                comparison.all(pieces, key_range.slices())
            return comparison

        with closing(IntegerReader(lambda: connected(servers.czar))) as reader:
            done = reader.complete(compare)
        found = done.differences
        progress.finish(", ".join(f"{count} {kind}" for kind, count in found.totals().items()))
        folder.write_json(f"{DIFFERENCES}/{number:04d}.json", found.as_dict())
        record.rows, record.result = done.rows, found.totals()
    return found


def _scope(folder: Folder, plan: Plan, *, sampled: bool) -> Scope:
    """The scope of the comparison: in a full audit all chunks but those that failed, in a sampled one those staged."""
    staged = {c.chunk for m in staged_runs(folder, plan) for c in m.chunks}
    planned = {c.chunk for group in read_groups(folder, plan) for c in group}
    return Scope(np.array(sorted(staged if sampled else planned - staged), np.int32), others=not sampled)


def probe(servers: Servers, plan: Plan, seed: int) -> Differences:
    """Look up some rows of the index, chosen by the seed, in their chunk tables; returns those that are not there."""
    tables, random = servers.tables(plan.request), np.random.default_rng(seed)
    result = Differences()
    with closing(IntegerReader(lambda: connected(servers.czar))) as reader:
        index, key = IndexReader(reader, plan, tables), quote(plan.key_column)
        low, high = query(reader.connection, f"SELECT MIN({key}), MAX({key}) FROM {tables.live}")[0]  # noqa: S608 - names are quoted
        if low is None:
            return result
        kind = key_type(int(high))
        for _ in range(BLOCKS):
            start = int(random.integers(low, high, dtype=kind, endpoint=True))
            rows = reader.complete(partial(index.block, start, BLOCK_ROWS))
            for chunk in np.unique(rows.chunk).tolist():
                some = rows.take(rows.chunk == chunk)
                there = _keys_in_chunk(servers, plan, chunk, some.key.tolist())
                if there is not None:
                    gone = some.take(~np.isin(some.key, np.array(sorted(there), some.key.dtype)))
                    if len(gone):
                        result.note(SURPLUS, gone, np.ones(len(gone), np.int64))
    return result


def _keys_in_chunk(servers: Servers, plan: Plan, chunk: int, keys: Sequence[int]) -> set[int] | None:
    """The keys that a chunk table has; ``None`` when no worker can tell."""
    table = quote(plan.request.database, f"{plan.request.director_table}_{chunk}")
    key = quote(plan.key_column)
    asked = 0
    for connect in servers.workers.values():
        try:
            with session(connect) as connection:
                sql = f"SELECT {key} FROM {table} WHERE {key} IN ({', '.join(['%s'] * len(keys))})"  # noqa: S608 - names are quoted
                return {int(found) for (found,) in query(connection, sql, keys)}
        except MySQLdb.Error as error:
            # On another worker, or nowhere.
            asked += code_of(error) == NO_SUCH_TABLE
    return set() if asked == len(servers.workers) else None
