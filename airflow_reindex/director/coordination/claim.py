"""The claim on an index under construction: its owner, its heartbeat, and how it is taken over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import MySQLdb

from airflow_reindex.core.claims import Keeper, Owner
from airflow_reindex.core.failures import ClaimLostError, ConflictError, TransientError
from airflow_reindex.director.coordination.throttle import ConnectionSlots, Watch
from airflow_reindex.director.model.limits import Limits
from airflow_reindex.director.model.tables import IndexTables
from airflow_reindex.director.mysql.client import (
    LOCK_WAIT,
    NO_SUCH_TABLE,
    Connect,
    Connection,
    code_of,
    drop_table,
    execute,
    hang_up,
    prepare,
    query,
    table_names,
    transaction,
)
from airflow_reindex.director.mysql.identifiers import quote
from airflow_reindex.director.mysql.locks import try_lock, unlock

#: Seconds between two heartbeats; changed limits take effect within the same time.
BEAT_SECONDS = 2.0
#: Seconds to wait for another planner of the same index; planning a takeover takes less than one.
GATE_SECONDS = 30


@dataclass(frozen=True)
class Held:
    """
    A claim found on the server.

    :param owner: ``None`` when the planner that created it crashed before it wrote its owner row.
    :param silent: seconds since the last heartbeat, by the server's clock.
    :param adopt_from: the URL of the folder of the run that the owner took over from; empty when there is none.
    """

    token: str
    owner: Owner | None
    silent: float
    adopt_from: str = ""


def find(connection: Connection, tables: IndexTables) -> Held | None:
    """
    The claim on the index, or ``None``.

    :raises TransientError: when it keeps changing hands.
    """
    for _ in range(5):
        names = table_names(connection, tables.work, tables.name("claim") + "_")
        if not names:
            return None
        try:
            return _read(connection, tables, names[0])
        except MySQLdb.Error as error:
            # Taken over or published in between: look again.
            if code_of(error) != NO_SUCH_TABLE:
                raise
    raise TransientError(f"the claim on index '{tables.database}.{tables.index}' changes hands right now: try again")


def _read(connection: Connection, tables: IndexTables, name: str) -> Held:
    token = name.rsplit("_", 1)[1]
    rows = query(
        connection,
        "SELECT deployment, dag_id, run_id, host, folder, adopt_from, TIMESTAMPDIFF(MICROSECOND, alive_at, NOW(6)) / "  # noqa: S608 - names are quoted
        f"1e6 FROM {tables.sql('claim', token)}",
    )
    if rows:
        *owner, adopt_from, silent = rows[0]
        return Held(token, Owner(*map(str, owner)), float(silent), str(adopt_from))
    created = query(
        connection,
        "SELECT TIMESTAMPDIFF(SECOND, CREATE_TIME, NOW()) FROM information_schema.TABLES "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
        (tables.work, name),
    )
    return Held(token, None, float(created[0][0] or 0) if created else 0.0)


def acquire(
    connection: Connection,
    tables: IndexTables,
    owner: Owner,
    may_take_over: Callable[[Owner, float], str | None],
    limits: Limits | None = None,
) -> tuple[str, Held | None]:
    """
    Acquire the claim on an index, or take it over.

    Planners of one index wait for a named lock of the server, so that only one at a time looks and decides. The
    takeover itself renames the claim's table, which only one can do, also against the old owner's swap. A claim without
    an owner row was left by a planner that crashed between CREATE and INSERT, as its connection held the lock; it can
    be taken over.

    :param connection: the czar's server; the lock is bound to it.
    :param may_take_over: given a claim's owner and the seconds since its last heartbeat, returns why it must be
        respected; ``None`` when it may be taken over.
    :param limits: the initial limits of the build.
    :returns: the new claim's token, and the claim that was taken over.
    :raises ConflictError: when another run's claim must be respected.
    :raises TransientError: when another planner holds the lock for too long.
    """
    token, adopt_from, limits = uuid4().hex[:16], "", limits or Limits()
    with _gate(connection, tables):
        held = find(connection, tables)
        if held is None:
            execute(connection, _definition(tables, token))
        else:
            reason = held.owner and may_take_over(held.owner, held.silent)
            if reason:
                raise ConflictError(reason)
            _rename_claim(connection, tables, held.token, token)
            if held.owner:
                # A plan task that died after its takeover and is retried finds itself as the former owner.
                own = held.owner.folder == owner.folder
                adopt_from = held.adopt_from if own else held.owner.folder
        with transaction(connection):
            execute(connection, f"DELETE FROM {tables.sql('claim', token)}")  # noqa: S608 - names are quoted
            execute(
                connection,
                f"INSERT INTO {tables.sql('claim', token)} "  # noqa: S608 - names are quoted
                "(deployment, dag_id, run_id, host, folder, adopt_from, rows_per_second, connections, claimed_at, "
                "alive_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, NOW(6), NOW(6))",
                (*vars(owner).values(), adopt_from, *vars(limits).values()),
            )
    return token, held


def set_limits(connection: Connection, tables: IndexTables, limits: Limits) -> Owner:
    """
    Change the limits of a running build; its tasks apply them within seconds.

    :returns: the run that builds the index.
    :raises ConflictError: when no run builds it.
    """
    held = find(connection, tables)
    if held is None or held.owner is None:
        raise ConflictError(f"nobody builds index '{tables.database}.{tables.index}' right now.")
    execute(
        connection,
        f"UPDATE {tables.sql('claim', held.token)} SET rows_per_second = %s, connections = %s",  # noqa: S608 - names are quoted
        (limits.rows_per_second, limits.connections),
    )
    return held.owner


def sweepable(connection: Connection, tables: IndexTables, keep: str) -> list[str]:
    """
    List what other builds of this index left in the working database. A kept previous index is none of it.

    :param connection: the czar's server.
    :param tables: the index.
    :param keep: the token whose tables stay.
    :returns: the names of the tables, claims after what they protect.
    """
    found = []
    for kind in ("shadow", "slices", "done", "claim"):
        names = table_names(connection, tables.work, tables.name(kind) + "_")
        found += [name for name in names if keep not in name.split("_")]
    # A fresh probe belongs to a plan that is at work right now.
    probe = tables.name("probe") + "_"
    rows = query(
        connection,
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND LEFT(TABLE_NAME, %s) = %s "
        "AND CREATE_TIME < NOW() - INTERVAL 1 HOUR",
        (tables.work, len(probe), probe),
    )
    return found + [str(name) for (name,) in rows]


def sweep(connection: Connection, tables: IndexTables, keep: str) -> list[str]:
    """
    Drop what other builds of this index left in the working database; returns the dropped tables' names.

    A kept previous index stays, and so do the tables of the token to keep.
    """
    names = sweepable(connection, tables, keep)
    for name in names:
        drop_table(connection, quote(tables.work, name))
    return names


def lost(tables: IndexTables) -> ClaimLostError:
    """The error that tells a task to stop for good."""
    return ClaimLostError(
        f"this run no longer holds the claim on index '{tables.database}.{tables.index}': another run took over. "
        "Nothing was changed; to build again, trigger a new run or clear this one from its task 'plan' on."
    )


class _ClaimHeartbeat:
    """Sends heartbeats over a connection of its own, reopened when it breaks, and reads changed limits."""

    def __init__(self, connect: Connect, tables: IndexTables, token: str) -> None:
        self._connect, self._tables, self._token = connect, tables, token
        self._connection: Connection | None = None
        self._busy = threading.Lock()
        self.watch: Watch | None = None

    def beat(self) -> bool:
        """Write the time; returns whether the claim is still there."""
        with self._busy:
            return self._beat()

    def _beat(self) -> bool:
        claim = self._tables.sql("claim", self._token)
        try:
            connection = self._connection = self._connection or prepare(self._connect())
            execute(connection, f"UPDATE {claim} SET alive_at = NOW(6)")  # noqa: S608 - names are quoted
            self._look(connection)
        except MySQLdb.Error as error:
            self._hang_up()
            if code_of(error) == NO_SUCH_TABLE:
                # Gone: taken over, or renamed by this run's own swap, after which no task checks it.
                return False
            raise
        return True

    def _look(self, connection: Connection) -> None:
        if self.watch is None:
            return
        rows = query(connection, f"SELECT rows_per_second, connections FROM {self._tables.sql('claim', self._token)}")  # noqa: S608 - names are quoted
        for rate, connections in rows:
            working = ConnectionSlots(connection, self._tables.mark).count() if rate else 1
            self.watch.set(Limits(int(rate), int(connections)), working)

    def close(self) -> None:
        """Close the connection; one with a statement under way ends with the process."""
        if self._busy.acquire(blocking=False):
            try:
                self._hang_up()
            finally:
                self._busy.release()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            hang_up(connection)


@contextmanager
def keeping(connect: Connect, tables: IndexTables, token: str) -> Iterator[Watch]:
    """
    Send a claim's heartbeat from a thread while a task works, and read changed limits.

    :raises ClaimLostError: when the claim is lost already.
    """
    heartbeat = _ClaimHeartbeat(connect, tables, token)
    try:
        keeper = Keeper(heartbeat.beat, lambda: lost(tables), every=BEAT_SECONDS)
        heartbeat.watch = Watch(keeper)
        with keeper:
            yield heartbeat.watch
    finally:
        heartbeat.close()


def _definition(tables: IndexTables, token: str) -> str:
    text = "VARCHAR(250) CHARACTER SET utf8mb4 NOT NULL"
    return (
        f"CREATE TABLE {tables.sql('claim', token)} (deployment {text}, dag_id {text}, run_id {text}, host {text}, "
        "folder TEXT CHARACTER SET utf8mb4 NOT NULL, adopt_from TEXT CHARACTER SET utf8mb4 NOT NULL, "
        "rows_per_second BIGINT NOT NULL, connections INT NOT NULL, "
        "claimed_at DATETIME(6) NOT NULL, alive_at DATETIME(6) NOT NULL) "
        "ENGINE=InnoDB COMMENT='claim of airflow-reindex on a director index'"
    )


def _rename_claim(connection: Connection, tables: IndexTables, old: str, new: str) -> None:
    try:
        execute(connection, f"RENAME TABLE {tables.sql('claim', old)} TO {tables.sql('claim', new)}")
    except MySQLdb.Error as error:
        if code_of(error) == NO_SUCH_TABLE:
            raise TransientError("the claim's owner has just finished: try again") from error
        if code_of(error) == LOCK_WAIT:
            raise TransientError(
                f"the run that holds the claim on index '{tables.database}.{tables.index}' is in the midst of a "
                "transaction: try again; should it be frozen, the server drops it after a minute"
            ) from error
        raise


@contextmanager
def _gate(connection: Connection, tables: IndexTables) -> Iterator[None]:
    name = f"airflow_reindex.{tables.mark}"
    if not try_lock(connection, name, GATE_SECONDS):
        raise TransientError(f"another run is claiming index '{tables.database}.{tables.index}' right now: try again")
    try:
        yield
    finally:
        unlock(connection, name)
