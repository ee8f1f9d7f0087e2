"""Loaders by name: what the deployment or the DAG defines, with Airflow's connections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from airflow.sdk.exceptions import AirflowException

from airflow_reindex.config import loader_definitions
from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks.connections import find_connection
from airflow_reindex.hooks.databases import database
from airflow_reindex.hooks.encryption import check_store
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import (
    PayloadSettings,
    S3Settings,
    SplitSettings,
    SqlSettings,
    parse,
)
from airflow_reindex.vectors.model.loader import Loader
from airflow_reindex.vectors.model.splitting import Splitter

_KINDS = {"payload": PayloadSettings, "s3": S3Settings, "sql": SqlSettings}


def make_loader(name: str, definitions: Mapping[str, Any] | None = None) -> tuple[Loader, Splitter]:
    """
    Build a loader.

    Connections that a definition names need not be among ``allowed_conn_ids``: who triggers a run chooses among
    definitions, but writes none.

    :param name: its name, from params. ``payload`` is always there.
    :param definitions: the DAG's own, which take precedence over those of ``[reindex] loaders``.
    :returns: the loader, and what cuts its contents.
    :raises RequestError: there is none of that name, its definition is malformed, or its connection is not there.
    """
    known: dict[str, Any] = {"payload": {"kind": "payload"}, **loader_definitions(), **(definitions or {})}
    if name not in known:
        raise RequestError(f"there is no loader '{name}'; this deployment has {', '.join(sorted(known))}.")
    where = f"the loader '{name}'"
    definition = known[name]
    if not isinstance(definition, Mapping):
        raise RequestError(f"{where} must be a JSON object, not {json.dumps(definition, default=str)}.")
    kind, split = definition.get("kind"), definition.get("split", {})
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RequestError(f"{where} has the kind {json.dumps(kind, default=str)}; there are {', '.join(_KINDS)}.")
    if not isinstance(split, Mapping):
        raise RequestError(f"{where}: 'split' must be a JSON object, not {json.dumps(split, default=str)}.")
    rest = {field: value for field, value in definition.items() if field not in ("kind", "split")}
    settings: Any = parse(where, rest, _KINDS[kind])
    cut = parse(f"'split' of {where}", split, SplitSettings)
    try:
        return _build(settings), Splitter(cut.characters, cut.overlap)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


def _build(settings: Any) -> Loader:
    if isinstance(settings, S3Settings):
        return _s3(settings)
    if isinstance(settings, SqlSettings):
        return _sql(settings)
    return PayloadLoader(settings)


def _s3(settings: S3Settings) -> Loader:
    try:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        from airflow_reindex.vectors.embedding.loaders.s3 import S3Loader
    except ImportError as error:
        raise RequestError(f"S3 needs the extra 's3': pip install 'airflow-reindex[s3]' ({error}).") from error
    connection = find_connection(settings.aws_conn_id)
    if connection.conn_type != "aws":
        # Without a usable connection the hook goes on with whatever credentials the machine has.
        raise RequestError(f"the connection '{settings.aws_conn_id}' has the type '{connection.conn_type}', not 'aws'.")
    check_store(settings.aws_conn_id, connection.extra_dejson)
    own = Config(
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=max(settings.concurrency, 1),
        connect_timeout=10,
        read_timeout=30,
    )
    try:
        # The connection's own `config_kwargs` win, and would be lost if a configuration were simply handed in.
        config = own.merge(S3Hook(aws_conn_id=settings.aws_conn_id).config)
        return S3Loader(settings, S3Hook(aws_conn_id=settings.aws_conn_id, config=config).get_conn())
    except (BotoCoreError, AirflowException, TypeError, ValueError) as error:
        raise RequestError(f"the connection '{settings.aws_conn_id}' cannot be used: {error}") from error


def _sql(settings: SqlSettings) -> Loader:
    from airflow_reindex.vectors.embedding.loaders.sql import SqlLoader

    try:
        hook, connect = database(settings.conn_id)
    except (AirflowException, ImportError) as error:
        raise RequestError(f"the connection '{settings.conn_id}' cannot be used: {error}") from error
    placeholder = getattr(hook, "placeholder", None)
    if placeholder is None:
        raise RequestError(f"the connection '{settings.conn_id}' is none of a database with a DB-API hook.")

    def run(statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        # Not the hook's own `get_records`: it logs every statement with its ids, and keeps them as lineage.
        with closing(connect()) as reached, closing(reached.cursor()) as cursor:
            cursor.execute(statement, tuple(values))
            # A connection may ask for cursors whose rows are dicts.
            return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in cursor.fetchall()]

    return SqlLoader(settings, run, placeholder)
