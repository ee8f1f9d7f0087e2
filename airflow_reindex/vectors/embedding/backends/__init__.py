"""Embedding models by the name of their backend. Modules are imported when they are used: each needs other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec

BUILT_IN = {
    "openai": f"{__name__}.openai.OpenAIModel",
    "kserve": f"{__name__}.kserve.KServeModel",
    "wordllama": f"{__name__}.wordllama.WordLlamaModel",
}


def open_model(spec: ModelSpec, registered: Mapping[str, str]) -> EmbeddingModel:
    """
    Make the model that a description asks for.

    :param spec: the description.
    :param registered: the deployment's own backends, ``package.module.Class`` by name.
    :returns: the model; it has not been reached yet.
    :raises RequestError: there is no such backend, it cannot be imported, or it refuses the description.
    """
    taken = registered.keys() & BUILT_IN.keys()
    if taken:
        raise RequestError(
            f"[reindex] embedding_backends registers '{min(taken)}', which is built in: choose another name."
        )
    paths = {**BUILT_IN, **registered}
    if spec.backend not in paths:
        raise RequestError(
            f"the embedding model '{spec.model_id}' asks for the backend '{spec.backend}'; there are "
            f"{', '.join(sorted(paths))}. Others are registered in [reindex] embedding_backends."
        )
    module, _, name = paths[spec.backend].rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = (
            f"install airflow-reindex[{'wordllama' if spec.backend == 'wordllama' else 'collections'}]"
            if spec.backend in BUILT_IN
            else "look at [reindex] embedding_backends, and whether its package is installed on this machine"
        )
        raise RequestError(
            f"the backend '{spec.backend}' ({paths[spec.backend]}) cannot be imported: {error}. Please {remedy}."
        ) from error
    if not callable(found):
        raise RequestError(f"the backend '{spec.backend}' ({paths[spec.backend]}) is not a class.")
    return cast("EmbeddingModel", found(spec))
