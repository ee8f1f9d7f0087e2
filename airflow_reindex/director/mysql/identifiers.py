"""SQL identifiers: checked once, quoted everywhere."""

from __future__ import annotations

from airflow_reindex.core.failures import RequestError

#: MySQL's and MariaDB's limit for the names of databases, tables and columns.
MAX_IDENTIFIER = 64


def check_identifier(name: str, what: str) -> str:
    """
    Refuse a name that no MySQL server would accept as an identifier.

    Quotes, back-ticks, dots and SQL in a name are allowed: :func:`quote` makes them harmless.

    :param what: what is named, for the message ("database", "director table").
    :returns: the name, unchanged.
    :raises RequestError: when the name is empty, longer than 64 characters, ends with a blank, or has characters that
        identifiers cannot have (NUL, control characters, surrogates, outside the basic multilingual plane).
    """
    if not isinstance(name, str) or not name:
        raise RequestError(f"the {what} name is empty.")
    if len(name) > MAX_IDENTIFIER:
        raise RequestError(f"MySQL table name limit of 64 characters has been exceeded for {what} '{name}'.")
    if name != name.rstrip() or any(map(_is_foreign, map(ord, name))):
        raise RequestError(
            f"the {what} name {name!r} is not an identifier: it ends with a blank or has control characters."
        )
    return name


def _is_foreign(char: int) -> bool:
    return char < 32 or char == 127 or 0xD800 <= char <= 0xDFFF or char > 0xFFFF


def quote(*parts: str) -> str:
    """
    Quote a (qualified) identifier for a statement that goes through a driver's ``%``-style placeholders.

    :param parts: outermost first (database, table).
    :returns: back-quoted parts joined by dots; ``%`` is doubled, as the driver will halve it again.
    """
    return ".".join("`" + part.replace("`", "``").replace("%", "%%") + "`" for part in parts)
