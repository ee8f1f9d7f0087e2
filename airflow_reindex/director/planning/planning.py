"""The first step of a build: check everything, claim the index, reuse what an earlier run staged, write the plan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from airflow_reindex.core.claims import Contender, Owner
from airflow_reindex.core.failures import Code, ConflictError, RequestError, SpaceError, TransientError
from airflow_reindex.core.memory import rows_that_fit
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import REPORT, drop_staged, is_run_folder, now
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.load import merge
from airflow_reindex.director.model import catalog, inventory
from airflow_reindex.director.model.catalog import DirectorTable
from airflow_reindex.director.model.inventory import Inventory, TableInfo
from airflow_reindex.director.model.plan import Plan, assign, make_groups, row_group_rows
from airflow_reindex.director.model.records import FILES, SPLIT, remove_earlier, write_plan
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.model.runs import RUNS, Manifest
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.tables import IndexTables, ensure_work_database
from airflow_reindex.director.mysql.client import Connection, describe, mysql_reason, session, table_exists, transaction
from airflow_reindex.director.mysql.disk_space import INDEX_BYTES, ServerDiskSpace
from airflow_reindex.director.planning import checks
from airflow_reindex.director.planning.completeness import check_complete, unlisted_notes
from airflow_reindex.director.planning.reuse import reuse_runs
from airflow_reindex.director.publish.changes import CHANGES

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """
    The run that plans, as Airflow knows it.

    :param owner: what the claim will say.
    :param conn_id: the qserv connection.
    :param state_of: as in :class:`Contender`.
    :param claim_timeout: seconds without a heartbeat after which an owner counts as dead.
    :param rows_per_task: rows that a mapped extract task should read.
    :param memory: bytes that a task may take.
    :param open_folder: opens a staging folder by its URL.
    :param kept: where the runs of an index's last build are kept; ``None`` where they are not.
    """

    owner: Owner
    conn_id: str
    state_of: Callable[[str, str], str | None]
    claim_timeout: float
    rows_per_task: int
    memory: int
    open_folder: Callable[[str], Folder]
    kept: Folder | None = None

    def contender(self, request: BuildRequest) -> Contender:
        """The run as a contender for the claim."""
        return Contender(
            owner=self.owner,
            state_of=self.state_of,
            claim_timeout=self.claim_timeout,
            force=request.force_takeover,
        )


def make_plan(
    servers: Servers, request: BuildRequest, folder: Folder, run: RunContext
) -> tuple[Plan, dict[str, object]]:
    """
    Plan a build. Nothing is changed before all checks have passed; a dry run changes nothing at all.

    :returns: the plan (without a token for a dry run), and the expected sizes and times.
    :raises RequestError: when the request or the deployment is wrong.
    :raises ConflictError: when the index exists, or another run builds it.
    """
    tables, transport = servers.tables(request), servers.transport(request)
    with session(servers.czar) as czar:
        inventories, table = describe_table(czar, servers, request)
        if not request.rebuild and table_exists(czar, tables.database, tables.index):
            raise ConflictError(tables.exists_message)
        _respect(czar, tables, request, run)
        checks.check_privileges(czar, tables)
        checks.probe_load(czar, tables, transport, leave_nothing=request.dry_run)
        plan = draft_plan(servers, request, run, table, inventories, token="")
        rows = sum(chunk.rows for group in plan.groups for chunk in group)
        figures = checks.estimate(rows, len(plan.groups), folder)
        figures["czar_bytes_free"] = _czar_room(czar, servers, rows)
        figures |= unlisted_notes(plan.unlisted)
        log.info(
            "%s chunks with about %s rows in %s groups; the index will take about %s MB, the build %s",
            plan.chunks,
            f"{rows:,}",
            len(plan.groups),
            round(rows * INDEX_BYTES / 1e6),
            figures["time"],
        )
        if request.dry_run:
            return plan, figures
        plan = _claim(czar, servers, plan, table, inventories, folder, run)
    return plan, figures


def _czar_room(czar: Connection, servers: Servers, rows: int) -> int | None:
    room = ServerDiskSpace(czar, servers.data_dir)
    free = room.free()
    if free is None:
        log.info(
            "the czar's free disk space is unknown: set 'data_dir' of the qserv connection, or install the server's "
            "plugin DISKS"
        )
    try:
        room.ensure(rows)
    except SpaceError as error:
        raise RequestError(f"the index would not fit: {error}", code=error.code) from error
    return free


def describe_table(czar: Connection, servers: Servers, request: BuildRequest) -> tuple[Inventory, DirectorTable]:
    """
    Read what the catalog says of a director table, and what its workers have.

    :returns: the chunk tables of each worker that answers, and the director table.
    :raises RequestError: when the catalog forbids it, or lacks chunks that the workers have.
    :raises TransientError: when a worker does not answer, and the catalog is a scan or lists no chunk.
    """
    if servers.catalog == "replication":
        # The catalog's answer first: it needs no worker.
        table = catalog.from_replication(czar, servers.replication_schema, request)
        catalog.check_workers(table, servers.workers)
        inventories, _ = _inventories(servers, request)
        return inventories, check_complete(czar, servers, request, table, inventories)
    inventories, columns = _inventories(servers, request, scan=True)
    table = catalog.from_scan(inventories, columns, request)
    for sentence in table.unchecked:
        log.warning("catalog=scan: could not check %s", sentence)
    return inventories, table


def _inventories(
    servers: Servers, request: BuildRequest, *, scan: bool = False
) -> tuple[dict[str, dict[int, TableInfo]], dict[str, str]]:
    result, silent = inventory.inventories(servers.workers, request)
    for worker, error in silent.items():
        if scan:
            code = mysql_reason(error).code
            raise TransientError(
                f"worker '{worker}' does not answer, and with catalog=scan nobody else knows its chunks: "
                f"{describe(error)}",
                code=Code.CONNECTION if code is Code.OTHER else code,
            ) from error
        log.warning(
            "worker %s does not answer, its chunks are read elsewhere where possible: %s", worker, describe(error)
        )
    return result, _columns(servers, request, result) if scan else {}


def _columns(servers: Servers, request: BuildRequest, inventories: Inventory) -> dict[str, str]:
    worker = next((worker for worker, tables in inventories.items() if tables), None)
    if worker is None:
        return {}
    with session(servers.workers[worker]) as connection:
        # The dummy chunk's table may be made by hand: any other one is more reliable.
        name = f"{request.director_table}_{min(inventories[worker])}"
        return catalog.chunk_columns(connection, request.database, name)


def draft_plan(
    servers: Servers,
    request: BuildRequest,
    run: RunContext,
    table: DirectorTable,
    inventories: Inventory,
    token: str,
    reused: tuple[Manifest, ...] = (),
) -> Plan:
    """Fix which task reads which chunks, without those of the reused manifests; nothing is written."""
    there = {chunk.chunk for manifest in reused for chunk in manifest.chunks}
    left = {chunk: workers for chunk, workers in table.placement.items() if chunk not in there}
    groups = make_groups(assign(left, inventories, servers.workers), run.rows_per_task)
    rows = sum(chunk.rows for group in groups for chunk in group) + sum(manifest.rows for manifest in reused)
    nullable = " NULL" if table.sub_chunk_type.nullable else " NOT NULL"
    return Plan(
        token=token,
        request=request,
        conn_id=run.conn_id,
        index_database=servers.index_database,
        key_column=table.key_column,
        key_type=table.key_type.sql,
        sub_chunk_type=table.sub_chunk_type.sql + nullable,
        unique=table.unique,
        groups=groups,
        planned_chunks=len(left),
        group_rows=row_group_rows(
            rows,
            rows_that_fit(run.memory, run_buffer.BYTES_PER_ROW),
            rows_that_fit(run.memory, merge.BYTES_PER_ROW),
        ),
        adopted={manifest.name: manifest.dropped for manifest in reused},
        adopted_chunks=len(there),
        unchecked=table.unchecked,
        unlisted=table.unlisted,
        started_at=now(),
    )


def _respect(czar: Connection, tables: IndexTables, request: BuildRequest, run: RunContext) -> None:
    held = claim.find(czar, tables)
    # A claim without an owner row is judged under the lock, which tells whether its planner is alive.
    reason = held and held.owner and _conflict(held.owner, held.silent, tables, request, run)
    if reason:
        raise ConflictError(reason)


def _conflict(owner: Owner, silent: float, tables: IndexTables, request: BuildRequest, run: RunContext) -> str | None:
    """Why a claim must be respected; ``None`` when it may be taken over."""
    contender = run.contender(request)
    if not contender.must_respect(owner, silent):
        return None
    return f"index '{tables.database}.{tables.index}' is being built by {owner}. {contender.advice(silent)}"


def _claim(
    czar: Connection,
    servers: Servers,
    draft: Plan,
    table: DirectorTable,
    inventories: Inventory,
    folder: Folder,
    run: RunContext,
) -> Plan:
    request, tables = draft.request, servers.tables(draft.request)
    ensure_work_database(czar, tables.work)
    token, former = claim.acquire(
        czar, tables, run.owner, lambda owner, silent: _conflict(owner, silent, tables, request, run), request.limits
    )
    if former:
        log.info("took over the claim of %s", former.owner or former.token)
    servers.transport(request).sweep(tables.mark, keep=token)
    swept = claim.sweep(czar, tables, token)
    if swept:
        log.info("swept %s tables of earlier builds: %s", len(swept), ", ".join(swept))
    sources = [folder]
    if former and former.owner:
        urls = {former.owner.folder, former.adopt_from} - {"", folder.url}
        sources += [source for url in sorted(urls) if is_run_folder(source := run.open_folder(url))]
    reused = reuse_runs(folder, [*sources, *([run.kept] if run.kept else [])], draft)
    plan = draft_plan(servers, request, run, table, inventories, token, reused)
    # Of two deliveries of this task the later one has the claim: the earlier one must not overwrite its plan.
    with transaction(czar):
        IndexBuild(czar, tables, token).fence()
        remove_earlier(folder, SPLIT, FILES, REPORT, CHANGES)
        write_plan(folder, plan)
    for source in sources[1:]:
        drop_staged(source)
    if run.kept:
        run.kept.remove(RUNS)
    return plan
