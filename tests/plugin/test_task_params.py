"""What a reindex task's body asks for: nothing of it is dropped without a word."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airflow_reindex import metadata
from airflow_reindex.core.failures import RequestError
from airflow_reindex.dag_factory.collection import collection_reindex_params
from airflow_reindex.plugin.contracts import reindex_tasks

MODELS = {"source": {"embedding_model_id": "a"}, "dest": {"embedding_model_id": "b"}}
FLAGS: dict[str, Any] = {"deploy_as_blue": None, "wait_on_conflict": None}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The DAG has the factory's params."""
    params = {name: param.value for name, param in collection_reindex_params().items()}
    monkeypatch.setattr(metadata, "params_of", lambda _: params)


def conf(**fields: Any) -> dict[str, Any]:
    """The params of the run of a task."""
    return dict(reindex_tasks._conf(reindex_tasks.ReindexTaskRunRequest.model_validate({**MODELS, **FLAGS, **fields})))


def test_params_beside_the_fields_are_heeded() -> None:
    assert conf(dry_run=True)["dry_run"] is True
    assert conf(alias="x", deploy_as_blue=True)["alias"] == "x"
    assert conf(params={"dry_run": True}, dry_run=True)["dry_run"] is True


def test_fields_that_may_be_null_do_not_undo_params() -> None:
    assert conf(params={"deploy_as_blue": True, "alias": "x"})["deploy_as_blue"] is True
    assert conf()["deploy_as_blue"] is False


@pytest.mark.parametrize(
    "fields",
    [
        {"params": {"deploy_as_blue": True, "alias": "x"}, "deploy_as_blue": False},
        {"params": {"source_embedding_model_id": "c"}},
        {"params": {"max_failed": 1}, "max_failed": 2},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="the request says two things of"):
        conf(**fields)


@pytest.mark.parametrize("fields", [{"dryrun": True}, {"params": {"dryrun": True}}])
def test_unknown_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="has no params dryrun"):
        conf(**fields)


def test_unknown_fields_of_models_are_refused() -> None:
    with pytest.raises(ValidationError, match="collection_id"):
        conf(source={"embedding_model_id": "a", "collection_id": "c"})
