"""Loader definitions: plain JSON from the deployment, checked field by field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_type_hints

from airflow_reindex.core.failures import RequestError

T = TypeVar("T")
Texts = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PayloadSettings:
    """
    Settings of a loader that takes the content from the row's payload.

    :param fields: their texts are joined by line ends; dots lead into nested objects. Empty: all texts of the payload,
        ordered by key.
    :param optional_fields: further fields that may be missing.
    """

    fields: Texts = ()
    optional_fields: Texts = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class S3Settings:
    """
    Settings of a loader that reads S3 objects named by the row's storage metadata.

    :param aws_conn_id: an Airflow connection of type ``aws``.
    :param bucket: for items that name none.
    :param buckets: the buckets that items may name; by default ``bucket`` alone, or any when that is empty.
    :param bucket_field: the metadata field with the bucket; dots lead into nested objects.
    :param key_field: the metadata field with the object's key; ``key`` is accepted as well.
    :param max_bytes: larger objects are refused.
    :param json_fields: the object is JSON, and the content is these fields' texts (an empty list: all texts). Of a
        list, the metadata's ``index`` names the element.
    :param concurrency: simultaneous requests.
    """

    aws_conn_id: str = "aws_default"
    bucket: str = ""
    buckets: Texts | None = None
    bucket_field: str = "bucket"
    key_field: str = "file"
    encoding: str = "utf-8"
    max_bytes: int = 10_000_000
    json_fields: Texts | None = None
    concurrency: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqlSettings:
    """
    Settings of a loader that selects texts from a database.

    :param query: returns ``(id, text)`` or ``(id, text, version)``, one row per id; ``{ids}`` stands for the bound ids,
        as in ``SELECT id, body FROM docs WHERE id IN ({ids})``. Where the driver's placeholder is ``%s``, write ``%``
        as ``%%``.
    :param version_query: returns ``(id, version)`` without reading texts; requires the third column of ``query``.
    :param id_field: the field of the storage metadata, or else of the payload, with the id; by default the object's id.
    :param id_type: how ids are bound.
    """

    conn_id: str
    query: str
    version_query: str = ""
    id_field: str = ""
    id_type: Literal["text", "integer"] = "text"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Settings of :class:`airflow_reindex.vectors.model.splitting.Splitter`."""

    characters: int = 2000
    overlap: int = 0


#: By a field's declared type: how messages describe it, and its runtime type.
_KINDS: dict[Any, tuple[str, type]] = {
    str: ("a text", str),
    int: ("a whole number from 0", int),
    Texts: ("a list of texts", tuple),
    Texts | None: ("a list of texts", tuple),
    Literal["text", "integer"]: ("'text' or 'integer'", str),
}


def parse(where: str, definition: Mapping[str, Any], settings: type[T]) -> T:
    """
    Check a definition.

    :param where: how messages name it, such as ``the loader 'docs'``.
    :param settings: one of the classes above.
    :raises RequestError: a field is unknown, missing, or of another type.
    """
    hints = get_type_hints(settings)
    definition = {name: value for name, value in definition.items() if value is not None}
    if unknown := sorted(set(definition) - set(hints)):
        raise RequestError(f"{where} has the unknown field '{unknown[0]}'; it knows {', '.join(hints)}.")
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and not definition.get(field.name):
            raise RequestError(f"{where} needs the field '{field.name}'.")
    return settings(**{name: _value(where, name, value, hints[name]) for name, value in definition.items()})


def _value(where: str, name: str, value: Any, hint: Any) -> Any:
    said, kind = _KINDS[hint]
    if kind is tuple and isinstance(value, list | tuple):
        value = tuple(value)
    good = isinstance(value, kind)
    if kind is tuple:
        good = good and all(isinstance(entry, str) and entry for entry in value)
    elif kind is int:
        good = good and not isinstance(value, bool) and value >= 0
    elif hint is not str:
        good = good and value in ("text", "integer")
    if not good:
        raise RequestError(f"{where}: '{name}' must be {said}, not {json.dumps(value, default=str)}.")
    return value


def config_text(kind: str, settings: Any, without: tuple[str, ...] = ()) -> str:
    """
    Serialize the settings that determine contents, as canonical JSON.

    :param without: fields that change no content.
    """
    told = {name: value for name, value in dataclasses.asdict(settings).items() if name not in without}
    return json.dumps({"kind": kind, **told}, sort_keys=True, separators=(",", ":"))
