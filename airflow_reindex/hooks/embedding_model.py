"""The connection type `embedding_model`: one model that turns texts into vectors."""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any, ClassVar, get_args
from urllib.parse import urlsplit

from airflow.sdk import BaseHook, Connection

from airflow_reindex.config import check_allowed, embedding_backends
from airflow_reindex.core.failures import ReindexError, RequestError
from airflow_reindex.hooks.connections import find_connection, json_object
from airflow_reindex.hooks.encryption import check_names, check_url
from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.embedding.probing import check_encoding
from airflow_reindex.vectors.embedding.requests import check_vectors, embed_texts
from airflow_reindex.vectors.model.collection import Metric
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec


class EmbeddingModelHook(BaseHook):
    """
    Connects to an embedding model.

    The server's URL is the connection's ``host``, with a path if needed: ``https://api.example.com/v1``. For a host
    without a scheme, ``schema`` is the scheme, by default ``http`` as in Airflow's HTTP connections; with a key it is
    required, so that no key travels in clear text by omission. ``port`` applies to a host without one.

    :param embedding_model_id: a connection of type ``embedding_model`` that the deployment allows (``[reindex]
        allowed_model_ids``).
    """

    conn_name_attr: ClassVar[str] = "embedding_model_id"
    default_conn_name: ClassVar[str] = "embedding_model_default"
    conn_type: ClassVar[str] = "embedding_model"
    hook_name: ClassVar[str] = "Embedding model"

    def __init__(self, embedding_model_id: str = default_conn_name) -> None:
        super().__init__()
        self.embedding_model_id = embedding_model_id

    @cached_property
    def spec(self) -> ModelSpec:
        """
        The model as the connection describes it.

        :raises RequestError: the connection is not allowed, does not exist, has another type, or is malformed.
        """
        check_allowed(self.embedding_model_id, "allowed_model_ids")
        return self._parse()

    def model(self) -> EmbeddingModel:
        """
        Create the model, to be closed by the caller; no request is sent yet.

        :raises RequestError: as :attr:`spec`, or the backend refuses the description.
        """
        return open_model(self.spec, embedding_backends())

    def get_conn(self) -> EmbeddingModel:
        """Return :meth:`model`."""
        return self.model()

    def test_connection(self) -> tuple[bool, str]:
        """Embed a short text; return whether that worked, the vector's length and the time."""
        try:
            # Airflow's form tests a copy of the connection with a random id, which matches no pattern.
            spec = self._parse()
            model = open_model(spec, embedding_backends())
            try:
                begun = time.monotonic()
                vectors = embed_texts(model, ["Hello"])
                took = time.monotonic() - begun
                check_encoding(model)
            finally:
                model.close()
        except ReindexError as error:
            return False, str(error)
        problem = check_vectors(vectors, spec.dimensions, spec.metric)[0]
        if problem:
            return False, f"embedding model '{spec.model_id}': {problem}."
        return True, f"{spec.name}: {vectors.shape[1]} dimensions in {took * 1000:.0f} ms"

    def _parse(self) -> ModelSpec:
        model_id = self.embedding_model_id
        advice = "an embedding model is a connection of type 'embedding_model' with the model's id"
        connection = find_connection(model_id, advice)
        if connection.conn_type != self.conn_type:
            raise RequestError(
                f"the connection '{model_id}' has the type '{connection.conn_type}', not 'embedding_model'."
            )
        fields = _Fields(model_id, connection.extra_dejson)
        timeout = fields.number("timeout", 60.0)
        if not timeout:
            raise fields.refuse("timeout", "must be more than 0")
        check_names(model_id, connection.extra_dejson, ())
        url = _url(connection, fields)
        check_url(model_id, url)
        return ModelSpec(
            model_id=model_id,
            backend=fields.text("backend", "openai"),
            name=fields.text("model", model_id),
            dimensions=fields.integer("dimensions", None),
            metric=fields.metric(),
            batch_size=fields.integer("batch_size", 32),
            in_flight=fields.integer("in_flight", 4),
            url=url,
            secret=(connection.password or "").strip(),
            timeout=timeout,
            document_prefix=fields.text("document_prefix", ""),
            query_prefix=fields.text("query_prefix", ""),
            collection_id=fields.text("collection_id", model_id),
            price=fields.number("price_per_million_tokens", None),
            options=json_object(connection.extra_dejson.get("options"), "options", model_id),
        )


class _Fields:
    """The extra of a connection; forms and URIs pass numbers as texts."""

    def __init__(self, conn_id: str, extra: dict[str, Any]) -> None:
        self._conn_id = conn_id
        self._extra = extra

    def refuse(self, name: str, what: str) -> RequestError:
        return RequestError(f"'{name}' of the connection '{self._conn_id}' {what}.")

    def text(self, name: str, default: str) -> str:
        value = self._extra.get(name)
        if value is None or value == "":
            return default
        if not isinstance(value, str):
            raise self.refuse(name, f"must be a text, not {value!r}")
        return value

    def number(self, name: str, default: float | None) -> float | None:
        value = self._extra.get(name)
        if value is None or value == "":
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise self.refuse(name, f"must be a number from 0, not {value!r}")
        return number

    def integer(self, name: str, default: int | None) -> int:
        number = self.number(name, default)
        if number is None:
            raise self.refuse(name, "is missing")
        if number < 1 or number != int(number):
            raise self.refuse(name, f"must be a whole number from 1, not {self._extra.get(name)!r}")
        return int(number)

    def metric(self) -> Metric:
        value = self.text("metric", "cosine")
        for metric in get_args(Metric):
            if value == metric:
                return metric  # type: ignore[no-any-return]
        raise self.refuse("metric", f"must be one of {', '.join(get_args(Metric))}, not '{value}'")


def _url(connection: Connection, fields: _Fields) -> str:
    """Compose the URL from host, schema and port; empty without a host."""
    host = (connection.host or "").strip()
    if not host:
        return ""
    if "://" not in host:
        if connection.password and not connection.schema:
            raise fields.refuse("schema", "is missing: say https or http, because a key is sent")
        host = f"{connection.schema or 'http'}://{host}"
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        raise fields.refuse("host", f"is no URL: {error}") from None
    if parts.username or parts.password:
        raise fields.refuse("host", "must have no user or password in it: the key is the connection's password")
    if parts.query or parts.fragment:
        raise fields.refuse("host", "must end with the path: it has a query or a fragment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise fields.refuse("host", "must be a host or an http or https URL")
    _check_agreement(connection, parts.scheme, port, fields)
    if connection.port and port is None:
        parts = parts._replace(netloc=f"{parts.netloc}:{connection.port}")
    return parts.geturl().rstrip("/")


def _check_agreement(connection: Connection, scheme: str, port: int | None, fields: _Fields) -> None:
    if connection.schema == "https" and scheme == "http":
        raise fields.refuse("host", "says http, but 'schema' https: say one of them")
    if connection.port and port not in (None, connection.port):
        raise fields.refuse("port", f"is {connection.port}, but 'host' says {port}")
