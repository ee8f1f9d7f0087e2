"""Names in SQL: checked first, then quoted."""

from __future__ import annotations

import re

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def quote(name: str) -> str:
    """An identifier in back quotes.

    :param name: a letter, then letters, digits and underscores, 64 characters at most
    :returns: the quoted name
    :raises ValueError: for any other name
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"not a plain identifier: {name!r}")
    return f"`{name}`"
