"""The store of collections behind a connection; the connection's type decides which."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from airflow.sdk import BaseHook, Connection

from airflow_reindex import config
from airflow_reindex.core.failures import ReindexError, RequestError
from airflow_reindex.hooks.connections import find_connection, json_object
from airflow_reindex.hooks.encryption import LIBPQ, check_names, check_postgres, check_url, sslmode
from airflow_reindex.vectors.model.store import Store


class CollectionHook(BaseHook):
    """
    Connects to a store of collections.

    :param collection_conn_id: a connection of type ``postgres`` (pgvector) or ``lancedb`` that the deployment allows
        (``[reindex] allowed_conn_ids``).
    """

    conn_name_attr: ClassVar[str] = "collection_conn_id"
    default_conn_name: ClassVar[str] = "collections_default"
    conn_type: ClassVar[str] = "lancedb"
    hook_name: ClassVar[str] = "LanceDB"

    def __init__(self, collection_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.collection_conn_id = collection_conn_id

    @cached_property
    def store(self) -> Store:
        """
        The store; nothing is connected yet.

        :raises RequestError: the connection is not allowed, does not exist, has another type, or has a malformed extra.
        """
        config.check_allowed(self.collection_conn_id)
        return self._make()

    def get_conn(self) -> Store:
        """Return :attr:`store`."""
        return self.store

    def test_connection(self) -> tuple[bool, str]:
        """Check the store as a run does before it starts; return whether it is usable, and what to do if not."""
        try:
            # Airflow's form tests a copy of the connection with a random id, which matches no pattern.
            store = self._make()
            try:
                store.check()
            finally:
                store.close()
        except ReindexError as error:
            return False, str(error)
        return True, f"{store.label} can be used"

    def _make(self) -> Store:
        connection = find_connection(self.collection_conn_id)
        makers = {"postgres": _pgvector, "lancedb": _lancedb}
        if connection.conn_type not in makers:
            raise RequestError(
                f"the connection '{self.collection_conn_id}' has the type '{connection.conn_type}': collections are "
                f"reached by one of type {' or '.join(makers)}."
            )
        return makers[connection.conn_type](connection)


def _pgvector(connection: Connection) -> Store:
    try:
        from airflow_reindex.vectors.stores.pgvector.connections import connector
        from airflow_reindex.vectors.stores.pgvector.store import PgVectorStore
    except ImportError as error:
        raise RequestError(f"'{error.name}' is not installed: pip install 'airflow-reindex[collections]'.") from error
    host, conn_id, extra = connection.host or "localhost", str(connection.conn_id), connection.extra_dejson
    check_names(conn_id, extra, LIBPQ)
    parameters: dict[str, Any] = {
        "host": host,
        "port": connection.port or 5432,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema or "postgres",
        # libpq's fields for TLS and sessions; it does not know the Postgres provider's own.
        **{name: value for name, value in extra.items() if name in _LIBPQ},
        "sslmode": sslmode(conn_id, extra),
    }
    check_postgres(conn_id, host, parameters["sslmode"])
    return PgVectorStore(
        connector(**{name: value for name, value in parameters.items() if value is not None}),
        label=f"database '{parameters['dbname']}' on {host}:{parameters['port']}",
        ef_search=config.integer("ef_search"),
        build_memory=config.text("index_build_memory"),
    )


_LIBPQ = (*LIBPQ, "options", "target_session_attrs", "gssencmode")


def _lancedb(connection: Connection) -> Store:
    try:
        from airflow_reindex.vectors.stores.lancedb.store import LanceStore
    except ImportError as error:
        raise RequestError(f"'{error.name}' is not installed: pip install 'airflow-reindex[lancedb]'.") from error
    options = json_object(connection.extra_dejson.get("storage_options"), "storage_options", str(connection.conn_id))
    if not connection.host:
        raise RequestError(
            f"the connection '{connection.conn_id}' needs a host: the folder or s3:// URL of the database."
        )
    check_url(str(connection.conn_id), options.get("aws_endpoint") or options.get("endpoint"))
    secrets = {"aws_access_key_id": connection.login, "aws_secret_access_key": connection.password}
    return LanceStore(
        connection.host,
        storage_options={**{k: v for k, v in secrets.items() if v}, **{str(k): str(v) for k, v in options.items()}},
    )
