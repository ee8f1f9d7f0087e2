"""Loaders by name: definitions of the deployment or the DAG, with Airflow's connections."""

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
    Create a loader and the splitter of its contents.

    Connections in a definition need not be among ``allowed_conn_ids``: whoever triggers a run chooses a definition but
    does not write one.

    :param name: from params; ``payload`` always exists.
    :param definitions: the DAG's own, which take precedence over ``[reindex] loaders``.
    :raises RequestError: the loader or its connection does not exist, or its definition is malformed.
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
        # Without a usable connection the hook would fall back to whatever credentials the machine has.
        raise RequestError(f"the connection '{settings.aws_conn_id}' has the type '{connection.conn_type}', not 'aws'.")
    check_store(settings.aws_conn_id, connection.extra_dejson)
    own = Config(
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=max(settings.concurrency, 1),
        connect_timeout=10,
        read_timeout=30,
    )
    try:
        # The connection's own `config_kwargs` take precedence; passing only a configuration would discard them.
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
        # Not the hook's own `get_records`, which logs every statement with its ids and keeps them as lineage.
        with closing(connect()) as reached, closing(reached.cursor()) as cursor:
            cursor.execute(statement, tuple(values))
            # A connection may configure cursors that return dicts.
            return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in cursor.fetchall()]

    return SqlLoader(settings, run, placeholder)
