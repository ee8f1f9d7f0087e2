"""Items to load."""

from __future__ import annotations

import json
from typing import Any

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.loader import Content


def item(object_id: str = "o", payload: Any = None, meta: Any = None) -> Item:
    """An item with JSON of the given values."""
    texts = [None if value is None else json.dumps(value) for value in (payload, meta)]
    return Item(object_id, texts[0], texts[1], b"v" * 16)


def told(answers: list[Any]) -> list[str]:
    """Texts or versions of what came, and messages of what did not, with a mark before them."""
    return [
        f"!{answer}" if isinstance(answer, DataError) else answer.text if isinstance(answer, Content) else answer
        for answer in answers
    ]
