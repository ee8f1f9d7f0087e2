"""The README's tables name what the code has: every param, setting and connection field, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.dag_factory.collection import collection_reindex_params
from airflow_reindex.dag_factory.director import director_index_params
from airflow_reindex.provider_info import get_provider_info

README = (Path(__file__).parents[1] / "README.md").read_text()
CONFIG: dict[str, Any] = get_provider_info()["config"]["reindex"]["options"]
FIELDS: dict[str, Any] = {
    one["connection-type"]: one.get("conn-fields", {}) for one in get_provider_info()["connection-types"]
}


def rows(first: str) -> dict[str, str]:
    """The table whose first name is given: each name of the first column, and the default beside it."""
    (found,) = [table for table in re.split(r"\n\n", README) if re.search(rf"^\| `{first}`", table, re.MULTILINE)]
    cells = [line.split(" | ")[:2] for line in found.splitlines() if line.startswith("| `")]
    return {name: default.strip(" |`") for names, default in cells for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize(
    ("first", "params"),
    [("database", director_index_params()), ("source_embedding_model_id", collection_reindex_params())],
)
def test_params(first: str, params: dict[str, Any]) -> None:
    assert set(rows(first)) == set(params)


def test_settings_and_their_defaults() -> None:
    told = rows("staging_url")
    assert set(told) == set(CONFIG)
    for name, option in CONFIG.items():
        if re.fullmatch(r"[\d,.]+", told[name]):
            assert float(told[name].replace(",", "")) == float(option["default"]), name


@pytest.mark.parametrize(("first", "kind"), [("workers", "qserv"), ("backend", "embedding_model")])
def test_fields_of_connections(first: str, kind: str) -> None:
    assert set(FIELDS[kind]) <= set(rows(first))
