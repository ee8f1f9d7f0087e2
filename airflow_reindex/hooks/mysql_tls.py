"""TLS settings in the extra of a MySQL connection: understood completely or refused by name; and their proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_reindex.core.failures import RequestError
from airflow_reindex.hooks import encryption

#: The names of MySQL's clients; the last three require encryption.
MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
ASKING = MODES[2:]
#: Fields of `ssl`; the first four are paths.
FIELDS = ("ca", "capath", "cert", "key", "cipher")
_PATHS = FIELDS[:4]


@dataclass(frozen=True)
class Tls:
    """
    TLS settings.

    :param options: `ssl` and `ssl_mode` as the MySQL provider's hook reads them from an extra.
    """

    options: Mapping[str, Any]

    @property
    def mode(self) -> str:
        """One of :data:`MODES`."""
        return str(self.options["ssl_mode"])

    @property
    def asked(self) -> bool:
        """Whether a connection in plain text must be refused."""
        return self.mode in ASKING


def of_extra(conn_id: str, extra: Mapping[str, Any], others: tuple[str, ...] = ()) -> Tls | None:
    """
    Read a connection's own settings, `ssl` and `ssl_mode`; ``None`` when there are none.

    :param others: further TLS fields that are read elsewhere.
    :raises RequestError: a field or value is unknown, they contradict each other, or a file is missing.
    """
    encryption.check_names(conn_id, extra, ("ssl", "ssl_mode", *others))
    where = f"'ssl' in the extra of the connection '{conn_id}'"
    fields, mode = _object(extra.get("ssl"), where), extra.get("ssl_mode")
    if mode in (None, "") and fields is None:
        return None
    mode = _mode(mode, f"'ssl_mode' in the extra of the connection '{conn_id}'", MODES)
    if fields is None:
        return Tls({"ssl_mode": mode})
    if mode in MODES[:2]:
        raise RequestError(f"{where} asks for TLS, but 'ssl_mode' is {mode}: leave one of them out.")
    return _settings(fields, mode, where)


def of_field(conn_id: str, tls: Mapping[str, Any]) -> Tls | None:
    """Read the field `tls` of a qserv connection; ``None`` when it is empty. Raises like :func:`of_extra`."""
    if not tls:
        return None
    where = f"'tls' in the extra of the connection '{conn_id}'"
    mode = _mode(tls.get("mode"), f"'mode' of {where}", ASKING)
    return _settings({name: value for name, value in tls.items() if name != "mode"}, mode, where)


def prove(connection: Any, conn_id: str, reason: str) -> None:
    """
    Close a plain-text connection: MariaDB's client library falls back to plain text even with `REQUIRED`.

    :param connection: a fresh connection of any DB-API driver.
    :param reason: why it must be encrypted.
    :raises RequestError: it is not.
    """
    cursor = connection.cursor()
    cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
    rows = [list(row.values()) if isinstance(row, Mapping) else row for row in cursor.fetchall()]
    cursor.close()
    if not rows or not rows[0][1]:
        connection.close()
        raise RequestError(
            f"the server of connection '{conn_id}' does not encrypt, but {reason}: switch TLS on in the server, or "
            "change the setting."
        )


def _mode(value: object, where: str, allowed: tuple[str, ...]) -> str:
    if value in (None, ""):
        return ""
    if value not in allowed:
        raise RequestError(f"{where} must be one of {', '.join(allowed)} (in capitals), not {value!r}.")
    return str(value)


def _object(value: object, where: str) -> dict[str, Any] | None:
    """The fields of `ssl`, which may be JSON in a text, or true; ``None`` when it requests nothing."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise RequestError(f"{where} must be a JSON object or true, not {value!r:.100}.") from None
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{where} must be a JSON object or true, not {value!r:.100}.")
    return value


def _settings(fields: Mapping[str, Any], mode: str, where: str) -> Tls:
    for name, value in fields.items():
        if name not in FIELDS:
            raise RequestError(f"{where} has the field '{name}', which nobody reads: there are {', '.join(FIELDS)}.")
        if not isinstance(value, str | None):
            raise RequestError(f"{where}: '{name}' must be a text.")
        if value and name in _PATHS and not Path(value).exists():
            raise RequestError(f"{where}: '{name}' is '{value}', which is not there (on this machine).")
    given = {name: value for name, value in fields.items() if value}
    # A configured CA implies that the server's identity is to be verified.
    mode = mode or ("VERIFY_IDENTITY" if given.keys() & {"ca", "capath"} else "REQUIRED")
    return Tls({**({"ssl": given} if given else {}), "ssl_mode": mode})
