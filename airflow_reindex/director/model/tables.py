"""The tables of a build in the working database: their names, and the index table's definition."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from airflow_reindex.core.failures import Code, RequestError
from airflow_reindex.director.model.plan import Plan
from airflow_reindex.director.mysql.client import DATABASE_EXISTS, Connection, code_of, execute, query
from airflow_reindex.director.mysql.identifiers import quote

#: The working database's name unless the connection says otherwise.
WORK_DATABASE = "airflow_reindex"


@dataclass(frozen=True)
class IndexTables:
    """
    The names of everything that belongs to the build of one index.

    Each name of a build includes its claim's token: after losing the claim, a run knows only names that are gone.

    :param work: the working database.
    :param database: the index database.
    :param index: the index table.
    """

    work: str
    database: str
    index: str

    @property
    def mark(self) -> str:
        """Hash of the index in the names of its tables: 12 hexadecimal digits."""
        return hashlib.sha256(f"{self.database}\0{self.index}".encode()).hexdigest()[:12]

    def name(self, kind: str, token: str = "", build: str = "") -> str:
        """
        The name of a working table, at most 40 characters.

        :param kind: ``claim``, ``done``, ``shadow``, ``slices``, ``previous``, ``replaced`` or ``probe``.
        :param token: the claim's token.
        :param build: the split's build, for the tables that hold rows.
        """
        return "_".join(part for part in (kind, self.mark, token, build) if part)

    def sql(self, kind: str, token: str = "", build: str = "") -> str:
        """A working table's quoted, qualified name; the parameters are those of :meth:`name`."""
        return quote(self.work, self.name(kind, token, build))

    @property
    def live(self) -> str:
        """The index table's quoted, qualified name."""
        return quote(self.database, self.index)

    @property
    def exists_message(self) -> str:
        """The message for an index that may not be replaced, in Qserv's words, and what to do."""
        return (
            f"Table '{self.index}' already exists in '{self.database}', errno: 1050. Use rebuild=1 to replace it: "
            "readers keep the present index until the new one is complete."
        )


def ensure_work_database(connection: Connection, name: str) -> bool:
    """Create the working database where it is missing; returns whether this call created it."""
    if query(connection, "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", (name,)):
        return False
    try:
        execute(connection, f"CREATE DATABASE {quote(name)}")
    except Exception as error:
        if code_of(error) == DATABASE_EXISTS:
            return False
        if code_of(error) in (1044, 1045, 1227):
            raise RequestError(
                f"the working database '{name}' does not exist and this account may not create it: as an "
                f"administrator run CREATE DATABASE {quote(name)} and grant SELECT, INSERT, UPDATE, DELETE, CREATE, "
                "DROP, ALTER on it.",
                code=Code.ACCESS,
            ) from error
        raise
    return True


def index_definition(plan: Plan) -> str:
    """What follows ``CREATE TABLE <name>`` for an index, as Qserv makes it: three columns, one key, InnoDB."""
    key, kind = quote(plan.key_column), "UNIQUE KEY" if plan.unique else "KEY"
    sub_chunk = plan.sub_chunk
    # A background thread would recalculate statistics all through the load; ANALYZE runs once at the end.
    return (
        f"({key} {plan.key.sql} NOT NULL, `chunkId` INT, "
        f"`subChunkId` {sub_chunk.sql}{'' if sub_chunk.nullable else ' NOT NULL'}, {kind} ({key})) "
        "ENGINE=InnoDB STATS_AUTO_RECALC=0"
    )
