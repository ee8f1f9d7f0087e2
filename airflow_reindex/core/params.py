"""Parsing of a run's params; an error names the param."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TypeVar

from airflow_reindex.core.failures import RequestError

Choice = TypeVar("Choice", bound=StrEnum)

_WORDS = {"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}


def flag(value: object, name: str) -> bool:
    """
    Read a yes or no; any number but 0 means yes.

    :param value: a number, a boolean, or a string that plainly means one (``"1"``, ``"true"``).
    :raises RequestError: when it means neither.
    """
    if isinstance(value, bool | int):
        return bool(value)
    if isinstance(value, float) and value.is_integer():
        return bool(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _WORDS:
            return bool(_WORDS[text])
        if re.fullmatch(r"[+-]?\d{1,18}", text):
            return int(text) != 0
    raise RequestError(f"the parameter {name} takes a number (0 or 1), not {value!r}.")


def whole_number(value: object, name: str) -> int:
    """
    Read a whole number from 0; ``None`` and an empty string mean 0.

    :raises RequestError: when it is something else.
    """
    text = str(value).strip() if value is not None else "0"
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,15}", text or "0"):
        raise RequestError(f"the parameter {name} takes a whole number from 0, not {value!r}.")
    return int(text or 0)


def choice(value: object, kind: type[Choice], name: str) -> Choice:
    """
    Read one of a few words, in any case; an empty value means the first one.

    :raises RequestError: when it is none of them.
    """
    words = list(kind)
    text = str(value or words[0]).strip().lower()
    if text not in words:
        raise RequestError(f"the parameter {name} takes one of {', '.join(words)}, not {value!r}.")
    return kind(text)
