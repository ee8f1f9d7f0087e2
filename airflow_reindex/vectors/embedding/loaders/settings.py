"""Definitions of loaders: plain JSON from the deployment, checked field by field."""

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
    The content is in the row's payload.

    :param fields: fields whose texts are joined by line ends; dots lead into nested objects. Empty: all texts of the
        payload, in order of their keys.
    :param optional_fields: further fields, that may be missing.
    """

    fields: Texts = ()
    optional_fields: Texts = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class S3Settings:
    """
    The content is an object in S3, named by the row's storage metadata.

    :param aws_conn_id: the Airflow connection, of type ``aws``.
    :param bucket: for items that name none.
    :param buckets: the buckets that items may name; by default ``bucket`` alone, and without it any.
    :param bucket_field: the field of the storage metadata with the bucket; dots lead into nested objects.
    :param key_field: the field with the object's key; ``key`` will do besides.
    :param encoding: of the object's text.
    :param max_bytes: larger objects are refused.
    :param json_fields: the object is JSON, and these fields' texts are its content; an empty list takes all texts. Of a
        list, the storage metadata's ``index`` names the element.
    :param concurrency: requests at the same time.
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
    The content is in a database.

    :param conn_id: the Airflow connection.
    :param query: gives ``(id, text)`` or ``(id, text, version)``, one row an id; ``{ids}`` stands for the list of
        bound ids, as in ``SELECT id, body FROM docs WHERE id IN ({ids})``. Where the driver's placeholder is ``%s``, a
        percent sign is written twice.
    :param version_query: gives ``(id, version)`` without reading the texts; needs the third column of ``query``.
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
    """How contents are cut; see :class:`airflow_reindex.vectors.model.splitting.Splitter`."""

    characters: int = 2000
    overlap: int = 0


#: What a value must be, and how it is told: by the type that a field is declared with.
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

    :param where: what messages call it, such as ``the loader 'docs'``.
    :param definition: JSON.
    :param settings: one of the classes above.
    :returns: its settings.
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


def recipe(kind: str, settings: Any, without: tuple[str, ...] = ()) -> str:
    """
    Write down what may change contents.

    :param kind: the loader's kind.
    :param settings: its settings.
    :param without: fields that change no content.
    :returns: canonical JSON.
    """
    told = {name: value for name, value in dataclasses.asdict(settings).items() if name not in without}
    return json.dumps({"kind": kind, **told}, sort_keys=True, separators=(",", ":"))
