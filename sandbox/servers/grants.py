"""What the account that Airflow uses may do, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass

import MySQLdb
from MySQLdb.connections import Connection
from MySQLdb.constants import ER

from sandbox.servers.identifiers import quote

ACCOUNT = "reindex"
ACCOUNT_HOSTS = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Grant:
    """One GRANT statement without its grantee.

    :param privileges: e.g. ``("SELECT", "INSERT")``
    :param scope: e.g. ``*.*`` or a quoted database with its tables
    :param reason: why the account needs it
    """

    privileges: tuple[str, ...]
    scope: str
    reason: str

    def statement(self, host: str) -> str:
        """The whole statement.

        :param host: host part of the account
        :returns: SQL
        """
        return f"GRANT {', '.join(self.privileges)} ON {self.scope} TO '{ACCOUNT}'@'{host}'"

    def revocation(self, host: str) -> str:
        """The statement that takes it back.

        :param host: host part of the account
        :returns: SQL
        """
        return f"REVOKE {', '.join(self.privileges)} ON {self.scope} FROM '{ACCOUNT}'@'{host}'"


# In the scope of a grant, `_` and `%` of a database name are patterns unless a backslash stands before them.
CZAR_GRANTS: tuple[Grant, ...] = (
    Grant(
        ("SELECT", "INSERT", "CREATE", "DROP", "ALTER"),
        "`qservMeta`.*",
        "rename a finished index into place, and the previous one away",
    ),
    Grant(
        ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER"),
        r"`airflow\_reindex`.*",
        "claims, tables under construction and their markers, a previous index that is kept",
    ),
    Grant(("SELECT",), "`qservReplica`.*", "which chunks there are and which workers hold them"),
    Grant(("FILE",), "*.*", "LOAD DATA INFILE, that is local=0, only; not needed for LOAD DATA LOCAL INFILE"),
)


def worker_grants(database: str) -> tuple[Grant, ...]:
    """What the account may do on a worker.

    :param database: the catalog's database
    :returns: its grants
    """
    return (Grant(("SELECT",), f"{database_pattern(database)}.*", "read keys and sub-chunk ids from the chunk tables"),)


def database_pattern(database: str) -> str:
    """A database name as the scope of a grant.

    :param database: a valid identifier
    :returns: the quoted name, which as a pattern matches only itself
    """
    return quote(database).replace("_", r"\_")


def create_account(connection: Connection, password: str, grants: tuple[Grant, ...]) -> None:
    """Create the account if it does not exist yet, and give it its grants.

    :param connection: a connection as root
    :param password: the account's password
    :param grants: what it may do
    """
    with connection.cursor() as cursor:
        for host in ACCOUNT_HOSTS:
            cursor.execute("CREATE USER IF NOT EXISTS %s@%s IDENTIFIED BY %s", (ACCOUNT, host, password))
    give(connection, grants)


def give(connection: Connection, grants: tuple[Grant, ...]) -> None:
    """Add grants to the account.

    :param connection: a connection as root
    :param grants: what it may do besides
    """
    with connection.cursor() as cursor:
        for host in ACCOUNT_HOSTS:
            for grant in grants:
                cursor.execute(grant.statement(host))


def take(connection: Connection, grants: tuple[Grant, ...]) -> None:
    """Remove grants from the account, as far as it has them.

    :param connection: a connection as root
    :param grants: what it may not do any more
    """
    with connection.cursor() as cursor:
        for host in ACCOUNT_HOSTS:
            for grant in grants:
                try:
                    cursor.execute(grant.revocation(host))
                except MySQLdb.OperationalError as error:
                    if error.args[0] != ER.NONEXISTING_GRANT:
                        raise
