"""Orphans of builds on the czar's server: claims, shadow tables, marks of swaps, kept indexes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from airflow_reindex.core.claims import Owner
from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.core.orphans import Orphan, OrphanState
from airflow_reindex.director.coordination import claim
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import Connection, drop_table, query
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.publish.verification import roll_back_statement

_NAME = re.compile(r"(claim|shadow|slices|done|previous|replaced|probe)_([0-9a-f]{12})(?:_([0-9a-z]{4,32}))?(?:_\w+)?")
_KINDS = {
    "shadow": "shadow table",
    "slices": "markers of slices",
    "done": "mark of a swap",
    "previous": "previous index",
    "replaced": "replaced index",
    "probe": "probe table",
}
#: Age in seconds from which a probe table is an orphan; a probe takes seconds.
_PROBE_SECONDS = 3_600


@dataclass(frozen=True)
class _Table:
    name: str
    kind: str
    mark: str
    token: str
    age: float


@dataclass(frozen=True)
class _Marked(IndexTables):
    """The tables of an index of which perhaps only the mark is known."""

    known: str = ""

    @property
    def mark(self) -> str:
        return self.known


def find_orphans(
    connection: Connection, servers: Servers, conn_id: str, claim_timeout: float, runs: Mapping[str, str]
) -> list[Orphan]:
    """
    List what is in the working database, claims first. Changes nothing.

    :param conn_id: the qserv connection, for advice.
    :param claim_timeout: seconds without a heartbeat after which a claim's owner counts as dead.
    :param runs: by token, the run as far as known from staged files.
    """
    tables = _tables(connection, servers.work_database)
    names = _index_names(connection, servers)
    claimed = {table.token for table in tables if table.kind == "claim"}
    found = []
    for mark, some in _by_mark(tables).items():
        index = _Marked(servers.work_database, servers.index_database, names.get(mark, ""), mark)
        for table in some:
            if table.kind == "claim":
                found.append(_of_claim(connection, index, table, conn_id, claim_timeout))
            elif table.token not in claimed:
                found.append(_of_table(index, table, conn_id, runs.get(table.token, "")))
    return sorted(found, key=lambda one: (one.kind != "claim", one.target, one.name))


def remove_orphans(
    connection: Connection, servers: Servers, found: list[Orphan], *, dry_run: bool = False
) -> Iterator[str]:
    """Drop what :func:`find_orphans` found orphaned, and yield each table's name; ``dry_run`` only yields the names."""
    for one in found:
        if one.condition == OrphanState.ORPHANED:
            if not dry_run:
                drop_table(connection, quote(servers.work_database, one.name))
            yield one.name


def abandon(
    connection: Connection,
    servers: Servers,
    target: str,
    owner: Owner,
    claim_timeout: float,
    *,
    dry_run: bool = False,
) -> list[str]:
    """
    Abandon a dead build: take its claim over, and drop all its tables. The live index stays as it is.

    :param target: the index table.
    :param owner: who gives it up.
    :param claim_timeout: after how many silent seconds the build counts as dead.
    :param dry_run: only list the tables.
    :returns: the names of the tables dropped; the claim's is the one that the dead run gave it.
    :raises ConflictError: the build is alive.
    :raises RequestError: there is nothing to give up.
    """
    tables = IndexTables(servers.work_database, servers.index_database, target)
    held = claim.find(connection, tables)
    if held is None:
        raise RequestError(f"nobody has a claim on index '{servers.index_database}.{target}'.")

    def alive(holder: Owner, silent: float) -> str | None:
        if silent > claim_timeout:
            return None
        return f"{holder} sent its last heartbeat {silent:.0f} s ago: stop it first"

    # No token is kept, not even the one that is taken for it: nobody builds.
    if dry_run:
        if held.owner and (why := alive(held.owner, held.silent)):
            raise ConflictError(why)
        return claim.sweepable(connection, tables, keep="none")
    token, _ = claim.acquire(connection, tables, owner, alive)
    taken, known = tables.name("claim", token), tables.name("claim", held.token)
    return [known if name == taken else name for name in claim.sweep(connection, tables, keep="none")]


def _tables(connection: Connection, work: str) -> list[_Table]:
    rows = query(
        connection,
        "SELECT TABLE_NAME, TIMESTAMPDIFF(SECOND, CREATE_TIME, NOW()) FROM information_schema.TABLES "
        "WHERE TABLE_SCHEMA = %s",
        (work,),
    )
    found = []
    for name, age in rows:
        match = _NAME.fullmatch(str(name))
        if match:
            found.append(_Table(str(name), match[1], match[2], match[3] or "", float(age or 0)))
    return found


def _by_mark(tables: list[_Table]) -> dict[str, list[_Table]]:
    found: dict[str, list[_Table]] = defaultdict(list)
    for table in tables:
        found[table.mark].append(table)
    return found


def _index_names(connection: Connection, servers: Servers) -> dict[str, str]:
    """Index name by mark: of the live indexes, and of those that the replication system knows."""
    statement = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
    names = {str(name) for (name,) in query(connection, statement, (servers.index_database,))}
    config = (servers.replication_schema, "config_database_table")
    if query(connection, f"{statement} AND TABLE_NAME = %s", config):
        listed = f"SELECT CONCAT(`database`, '__', `table`) FROM {quote(*config)}"  # noqa: S608 - names are quoted
        rows = query(connection, listed)
        names |= {str(name) for (name,) in rows}
    return {IndexTables("", servers.index_database, name).mark: name for name in names}


def _of_claim(connection: Connection, index: _Marked, table: _Table, conn_id: str, timeout: float) -> Orphan:
    held = claim.find(connection, index)
    silent = held.silent if held else 0.0
    owner = str(held.owner) if held and held.owner else "a run that died before it said its name"
    dead = silent > timeout
    run = held.owner if held else None
    resume = (
        f"clear the failed tasks of that run in the UI, or trigger {run.dag_id if run else 'build_director_index'} "
        "anew for the same table: it takes over and does what is left. To give it up: "
        f"airflow-reindex repair --qserv {conn_id} --give-up {index.index or '<index>'} --yes"
    )
    return Orphan(
        kind="claim",
        name=table.name,
        target=index.index,
        condition=OrphanState.ABANDONED if dead else OrphanState.AT_WORK,
        owner=owner,
        silent=silent,
        advice=resume if dead else "nothing: it gives signs of life.",
    )


def _of_table(index: _Marked, table: _Table, conn_id: str, run: str) -> Orphan:
    condition, advice = OrphanState.ORPHANED, f"airflow-reindex repair --qserv {conn_id} --yes"
    if table.kind in ("previous", "replaced"):
        condition, advice = OrphanState.KEPT, "the next build of the index removes it."
        if table.kind == "previous" and index.index:
            statement = roll_back_statement(index, quote(index.work, table.name))
            advice = f"to roll back: {statement}; otherwise {advice}"
    elif table.kind == "probe" and table.age < _PROBE_SECONDS:
        condition, advice = OrphanState.AT_WORK, "nothing: a plan makes and drops it."
    elif table.kind == "done":
        condition = OrphanState.ABANDONED
        advice = (
            "its index is published, but its run has not ended well: clear the failed tasks of that run, and it says "
            "so; or let the next build of the index remove the mark."
        )
    return Orphan(
        kind=_KINDS[table.kind],
        name=table.name,
        target=index.index,
        condition=condition,
        owner=run or "a run whose files are gone",
        advice=advice,
    )
