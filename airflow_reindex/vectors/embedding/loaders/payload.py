"""Contents from the row's own payload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings, config_text
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.loader import Content


class PayloadLoader:
    """Takes texts from the payload."""

    outside = False

    def __init__(self, settings: PayloadSettings) -> None:
        self._settings = settings
        self.config = config_text("payload", settings)

    def load(self, items: Sequence[Item]) -> list[Content | DataError]:
        return [self._content(item) for item in items]

    def versions(self, items: Sequence[Item]) -> list[str | DataError]:
        """Return empty texts: payload contents have no version of their own."""
        return [""] * len(items)

    def _content(self, item: Item) -> Content | DataError:
        try:
            payload = item.payload
            if payload is None:
                return DataError("the payload is NULL.")
            return Content(text_of(payload, "the payload", self._settings.fields, self._settings.optional_fields))
        except DataError as error:
            return error
        except (ValueError, RecursionError) as error:
            return DataError(f"the payload cannot be read: {error}.")


def text_of(value: Any, where: str, fields: Sequence[str], optional_fields: Sequence[str] = ()) -> str:
    """
    Join the texts of a JSON object's fields with line ends.

    :param where: how messages name the object.
    :param fields: dots lead into nested objects; none: all texts, ordered by key.
    :param optional_fields: further fields that may be missing or NULL.
    :raises DataError: a field is missing or not a text, or all are blank.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object.")
    if fields or optional_fields:
        taken = [_text(lookup(value, field), where, field) for field in fields]
        found = ((field, lookup(value, field)) for field in optional_fields)
        taken += [_text(entry, where, field) for field, entry in found if entry is not None]
    else:
        taken = [entry for _, entry in sorted(value.items()) if isinstance(entry, str)]
    text = "\n".join(entry for entry in taken if entry.strip())
    if not text:
        named = ", ".join((*fields, *optional_fields))
        raise DataError(f"{where} has no text" + (f" in {named}." if named else "."))
    return text


def lookup(value: Any, field: str) -> Any:
    """Return a field's value, or ``None``; dots lead into nested objects."""
    for name in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _text(value: Any, where: str, field: str) -> str:
    if value is None:
        raise DataError(f"{where} has no field '{field}'.")
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise DataError(f"the field '{field}' of {where} holds no text, but {type(value).__name__}.")
    return value
