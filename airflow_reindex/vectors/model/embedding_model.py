"""Interface of embedding models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from airflow_reindex.core.failures import TransientError
from airflow_reindex.vectors.model.collection import Metric, Vectors

Kind = Literal["document", "query"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """
    An embedding model as its connection describes it.

    :param model_id: the connection's id, which is EmbeddingStudio's ``embedding_model_id``.
    :param name: how the backend names the model.
    :param batch_size: texts per request.
    :param in_flight: simultaneous requests.
    :param url: empty for a model without a server.
    :param secret: key or token; never shown.
    :param timeout: seconds until a request counts as failed.
    :param document_prefix: prepended to each stored text.
    :param query_prefix: prepended to each query.
    :param collection_id: the id of its collection; by default the model's own.
    :param price: of a million tokens, for estimates; ``None`` when unknown.
    :param options: further settings of the backend.
    """

    model_id: str
    backend: str
    name: str
    dimensions: int
    metric: Metric = "cosine"
    batch_size: int = 32
    in_flight: int = 4
    url: str = ""
    secret: str = field(default="", repr=False)
    timeout: float = 60.0
    document_prefix: str = ""
    query_prefix: str = ""
    collection_id: str = ""
    price: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class SuspectError(TransientError):
    """
    The server keeps failing on this very request: one of its texts may be the cause.

    Bisection of the batch tells: a bad text fails alone while others succeed; when all fail, the server is at fault.
    """


class EmbeddingModel(Protocol):
    """
    Turns texts into vectors.

    Each call is one request; calls come from several threads. The deployment may register its own class as a backend:
    it is called with a :class:`ModelSpec` and implements this interface.
    """

    @property
    def spec(self) -> ModelSpec:
        """Its description."""

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """
        Embed texts.

        :param texts: at most ``spec.batch_size``, none of them empty.
        :returns: shape ``(len(texts), n)``, in the order of the texts. The caller checks ``n`` and the numbers, as a
            bad vector is the failure of its text alone.
        :raises RequestError: the model, its address or its credentials are wrong.
        :raises TransientError: it is away or busy, also after several attempts.
        :raises SuspectError: it fails on this request, perhaps because of one of the texts.
        :raises DataError: it refuses one of the texts.
        """

    def close(self) -> None:
        """Close connections."""
