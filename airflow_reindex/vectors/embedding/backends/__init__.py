"""Embedding models by backend name. Modules are imported on use, as each needs other packages."""

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
    Create the model for a description; no request is sent yet.

    :param registered: the deployment's own backends, ``package.module.Class`` by name.
    :raises RequestError: the backend does not exist, cannot be imported, or refuses the description.
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
