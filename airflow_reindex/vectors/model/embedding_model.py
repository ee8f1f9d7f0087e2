"""What an embedding model must offer."""

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

    :param model_id: the connection's id, which is the seed's ``embedding_model_id``.
    :param backend: the backend's name.
    :param name: what the backend calls the model.
    :param dimensions: of its vectors.
    :param metric: how its distances are measured.
    :param batch_size: texts a request.
    :param in_flight: requests at the same time.
    :param url: where its server answers; empty for one without a server.
    :param secret: its key or token; never shown.
    :param timeout: seconds until a request counts as failed.
    :param document_prefix: put before each text that is stored.
    :param query_prefix: put before each text that is searched for.
    :param collection_id: the id of the collection of its vectors; by default the model's own.
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
    The server failed on this very request, also when asked again: one of its texts may be the cause.

    Halving the batch finds the text, if it is one: it keeps failing alone while others succeed. When all fail, the
    server is at fault.
    """


class EmbeddingModel(Protocol):
    """
    Turns texts into vectors.

    One call is one request; it is made from several threads at a time. A class of the deployment's own that is
    registered as a backend is called with a :class:`ModelSpec` and offers these.
    """

    @property
    def spec(self) -> ModelSpec:
        """Its description."""

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """
        Embed texts.

        :param texts: at most ``spec.batch_size`` texts, none of them empty.
        :param kind: whether they are stored or searched for.
        :returns: one vector a text, shape ``(len(texts), n)``, in the order of the texts. Whether ``n`` and the
            numbers are right is the caller's to check: one bad vector is its text's failure alone.
        :raises RequestError: the model, its address or its credentials are wrong.
        :raises TransientError: it is away or busy, also after several tries.
        :raises SuspectError: it fails on this request; perhaps because of one of the texts.
        :raises DataError: it refuses one of the texts.
        """

    def close(self) -> None:
        """Let go of connections."""
