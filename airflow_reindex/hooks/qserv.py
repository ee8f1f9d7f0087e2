"""The connection type `qserv`: the czar's MySQL server, the workers', and the catalog's source."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import MySQLdb
from airflow.providers.mysql.hooks.mysql import MySqlHook
from airflow.sdk import BaseHook, Connection

from airflow_reindex.config import check_allowed
from airflow_reindex.core.failures import ReindexError, RequestError
from airflow_reindex.core.params import whole_number
from airflow_reindex.director.model.servers import Servers
from airflow_reindex.director.model.tables import WORK_DATABASE
from airflow_reindex.director.mysql.client import Connect, Timeouts, code_of, describe, execute, query, session
from airflow_reindex.hooks import encryption, mysql_tls
from airflow_reindex.hooks.connections import find_connection, json_object
from airflow_reindex.hooks.mysql_tls import Tls

#: Seconds until a silent worker counts as hung: rows come unsorted, the first ones at once.
WORKER_READ_TIMEOUT = 600
#: The longest time-out in seconds; client libraries count milliseconds.
MOST_SECONDS = 604_800
#: Connections per worker: the default and the limit.
DEFAULT_WORKER_CONNECTIONS, MOST_WORKER_CONNECTIONS = 4, 64
#: Access denied: a privilege is missing.
_NOT_ALLOWED = (1045, 1227)


class ServerHook(MySqlHook):
    """The MySQL provider's hook with time-outs, as a host that drops packets would block a task for hours."""

    timeouts = Timeouts()

    def _get_conn_config_mysql_client(self, conn: Connection) -> dict[str, Any]:
        return {**super()._get_conn_config_mysql_client(conn), **self.timeouts.options}


class QservHook(BaseHook):
    """
    Connects to the servers of a Qserv installation.

    Connections are made by the MySQL provider's :class:`MySqlHook`. Time-outs are set in the connection's extra, in
    seconds:

    * ``connect_timeout`` (10): until a server that cannot be connected to counts as away.
    * ``network_timeout`` (120): until a machine that acknowledges nothing counts as away (TCP keepalives and
      ``TCP_USER_TIMEOUT``); also the longest time without a server accepting a byte.
    * ``worker_read_timeout`` (600): until a worker that sends no byte of an answer counts as hung.
    * ``read_timeout`` (3600): the same for the czar's server. Loading a slice or a checksum sends nothing for minutes,
      so this only bounds the wait for a hung server on a live machine.

    With ``binary_log`` 0 in the extra a build writes nothing to the czar's binary log: faster where the czar's server
    is not replicated; a replica would lack the index.

    :param qserv_conn_id: a connection of type ``qserv`` that the deployment allows (``[reindex] allowed_conn_ids``).
    """

    conn_name_attr: ClassVar[str] = "qserv_conn_id"
    default_conn_name: ClassVar[str] = "qserv_default"
    conn_type: ClassVar[str] = "qserv"
    hook_name: ClassVar[str] = "Qserv"

    def __init__(self, qserv_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.qserv_conn_id = qserv_conn_id

    @cached_property
    def connection(self) -> Connection:
        """
        The Airflow connection.

        :raises RequestError: it is not allowed, does not exist, or has another type.
        """
        check_allowed(self.qserv_conn_id)
        return self._find()

    def _find(self) -> Connection:
        connection = find_connection(self.qserv_conn_id)
        if connection.conn_type != self.conn_type:
            raise RequestError(
                f"the connection '{self.qserv_conn_id}' has the type '{connection.conn_type}', not 'qserv'."
            )
        return connection

    def get_conn(self) -> Any:
        """Open a mysqlclient connection to the czar's MySQL server."""
        return self.servers.czar()

    @cached_property
    def servers(self) -> Servers:
        """
        All servers. Airflow connections are looked up here once, so that threads can connect later.

        :raises RequestError: the extra of the connection is malformed.
        """
        return self._servers(self.connection)

    def _servers(self, connection: Connection) -> Servers:
        extra = connection.extra_dejson
        tls = mysql_tls.of_field(self.qserv_conn_id, json_object(extra.get("tls"), "tls", self.qserv_conn_id))
        workers = json_object(extra.get("workers"), "workers", self.qserv_conn_id)
        if not workers:
            raise RequestError(
                f"the connection '{self.qserv_conn_id}' names no workers: set 'workers' in its extra to "
                '{"<worker name>": "<MySQL connection id>"}.'
            )
        catalog = extra.get("catalog") or "replication"
        if catalog not in ("replication", "scan"):
            raise RequestError(
                f"'catalog' in the extra of '{self.qserv_conn_id}' must be 'replication' or 'scan', not '{catalog}'."
            )
        timeouts = Timeouts(
            connect=self._seconds(extra, "connect_timeout", Timeouts.connect),
            answer=self._seconds(extra, "read_timeout", Timeouts.answer),
            network=self._seconds(extra, "network_timeout", Timeouts.network),
        )
        readers = replace(timeouts, answer=self._seconds(extra, "worker_read_timeout", WORKER_READ_TIMEOUT))
        binary_log = bool(whole_number(extra.get("binary_log", 1), "binary_log"))
        return Servers(
            czar=_connect(connection, tls, timeouts, czar=True, binary_log=binary_log),
            workers={
                str(name): _connect(find_connection(str(conn_id)), tls, readers) for name, conn_id in workers.items()
            },
            index_database=connection.schema or "qservMeta",
            work_database=extra.get("work_database") or WORK_DATABASE,
            catalog="scan" if catalog == "scan" else "replication",
            replication_schema=extra.get("replication_schema") or "qservReplica",
            worker_connections=self._worker_connections(extra),
            staging_dir=extra.get("staging_dir") or None,
            server_staging_dir=extra.get("server_staging_dir") or None,
            data_dir=extra.get("data_dir") or None,
        )

    def _worker_connections(self, extra: dict[str, Any]) -> int:
        return self._number(extra, "worker_connections", DEFAULT_WORKER_CONNECTIONS, MOST_WORKER_CONNECTIONS)

    def _seconds(self, extra: dict[str, Any], name: str, default: int) -> int:
        return self._number(extra, name, default, MOST_SECONDS)

    def _number(self, extra: dict[str, Any], name: str, default: int, most: int) -> int:
        value = whole_number(extra.get(name) or default, name)
        if not 1 <= value <= most:
            raise RequestError(
                f"'{name}' in the extra of '{self.qserv_conn_id}' must be from 1 to {most}, not {value}."
            )
        return value

    def test_connection(self) -> tuple[bool, str]:
        """Connect to the czar's and every worker's server; return whether all answered, and one line per server."""
        try:
            # Airflow's form tests a copy of the connection with a random id, which matches no pattern.
            servers = self._servers(self._find())
        except RequestError as error:
            return False, str(error)
        answers = [_answer(name, connect) for name, connect in {"czar": servers.czar, **servers.workers}.items()]
        return all(good for good, _ in answers), "\n".join(line for _, line in answers)


def _answer(name: str, connect: Connect) -> tuple[bool, str]:
    try:
        with session(connect) as connection:
            return True, f"{name}: {query(connection, 'SELECT VERSION()')[0][0]}"
    except (MySQLdb.Error, ReindexError) as error:
        return False, f"{name}: {describe(error)}"


def _stop_logging(connection: Any, conn_id: str) -> None:
    try:
        execute(connection, "SET SESSION sql_log_bin = 0")
    except MySQLdb.Error as error:
        connection.close()
        if code_of(error) not in _NOT_ALLOWED:
            raise
        raise RequestError(
            f"the account of connection '{conn_id}' may not work without the binary log, as 'binary_log' in its extra "
            "asks for: GRANT BINLOG ADMIN ON *.* (MySQL: SESSION_VARIABLES_ADMIN), or remove 'binary_log'."
        ) from error


def _connect(
    connection: Connection, tls: Tls | None, timeouts: Timeouts, *, czar: bool = False, binary_log: bool = True
) -> Connect:
    conn_id, given = str(connection.conn_id), connection.extra_dejson
    own = mysql_tls.of_extra(conn_id, given, ("tls",) if czar else ())
    settings, local = own or tls, bool(given.get("unix_socket"))
    advice = "set 'tls' in the qserv connection's extra, or 'ssl' in its own"
    encryption.check(conn_id, local or (settings is not None and settings.mode != "DISABLED"), advice)
    reason = _why_encrypted(own, tls, local=local)
    # Only settings for reaching the server are passed on: a cursor class or another client would break the streaming.
    extra = {**({"unix_socket": given["unix_socket"]} if local else {}), **(settings.options if settings else {})}
    server = Connection(
        conn_id=connection.conn_id,
        conn_type="mysql",
        host=connection.host,
        port=connection.port,
        login=connection.login,
        password=connection.password,
        extra=json.dumps(extra),
    )

    def connect() -> Any:
        hook = ServerHook(connection=server, local_infile=czar)
        hook.timeouts = timeouts
        reached = hook.get_conn()
        timeouts.apply(reached)
        if reason:
            mysql_tls.prove(reached, conn_id, reason)
        if not binary_log:
            _stop_logging(reached, conn_id)
        return reached

    return connect


def _why_encrypted(own: Tls | None, tls: Tls | None, *, local: bool) -> str:
    """Why a server's connections must be encrypted; empty when they need not be."""
    if tls is not None:
        return "'tls' is set in the qserv connection's extra"
    if own is not None and own.asked:
        return "'ssl' or 'ssl_mode' in its extra asks for it"
    return "[reindex] require_tls is set" if encryption.is_required() and not local else ""
