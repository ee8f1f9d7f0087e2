"""Databases with contents or queries, reached through their providers' hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_reindex.hooks import encryption, mysql_tls
from airflow_reindex.hooks.connections import find_connection


def database(conn_id: str) -> tuple[Any, Callable[[], Any]]:
    """
    Return a connection's DB-API hook, and a function that connects, encrypted where the connection asks for TLS.

    :raises RequestError: the connection does not exist, or its TLS settings are not understood or too weak for
        `[reindex] require_tls`.
    """
    connection = find_connection(conn_id)
    extra, host = connection.extra_dejson, connection.host or "localhost"
    reason = ""
    if connection.conn_type == "postgres":
        # libpq enforces its TLS settings itself.
        encryption.check_names(conn_id, extra, encryption.LIBPQ)
        encryption.check_postgres(conn_id, host, encryption.sslmode(conn_id, extra))
    elif connection.conn_type == "mysql":
        tls, local = mysql_tls.of_extra(conn_id, extra), bool(extra.get("unix_socket"))
        encryption.check(
            conn_id, local or (tls is not None and tls.mode != "DISABLED"), "set 'ssl' or 'ssl_mode' in its extra"
        )
        if tls is not None and tls.asked:
            reason = "its extra asks for it"
        elif encryption.is_required() and not local:
            reason = "[reindex] require_tls is set"
    hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]

    def connect() -> Any:
        reached = hook.get_conn()
        if reason:
            mysql_tls.prove(reached, conn_id, reason)
        return reached

    return hook, connect
