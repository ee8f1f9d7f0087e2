"""Enforcement of `[reindex] require_tls`: no connection over a network in plain text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk.configuration import conf

from airflow_reindex.config import SECTION
from airflow_reindex.core.failures import RequestError

#: The libpq modes that never fall back to plain text.
_ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")
_OTHER_MODES = ("disable", "allow", "prefer")
#: libpq's fields for TLS.
LIBPQ = (
    "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "sslsni", "sslcertmode",
    "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
)  # fmt: skip
#: Names of fields that seem to ask for encryption.
_LOOKS_LIKE_TLS = re.compile(
    r"ssl|tls|encr|secure|requires?|required|verif|cert|cipher|^(ca|capath|key|mode)$", re.IGNORECASE
)
_LOOKS_LIKE_A_MODE = re.compile(r"require[ds]?|verify[-_ ]?(ca|full|identity)", re.IGNORECASE)


def is_required() -> bool:
    """Whether the deployment requires TLS."""
    return bool(conf.getboolean(SECTION, "require_tls", fallback=False))


def check(conn_id: str, encrypted: bool, advice: str) -> None:
    """
    Refuse a plain-text connection where the deployment requires TLS.

    :param conn_id: the connection, or another name for the message.
    :param encrypted: whether it is encrypted, or never leaves the machine.
    :param advice: what to set.
    :raises RequestError: it is not.
    """
    if not encrypted and is_required():
        raise RequestError(f"the connection '{conn_id}' is in plain text, but [reindex] require_tls is set: {advice}.")


def check_names(conn_id: str, extra: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """
    Refuse fields that seem to ask for encryption but are not read.

    :param known: the fields that are read.
    :raises RequestError: there is such a field.
    """
    for name, value in extra.items():
        if name in known or value in (None, "", False):
            continue
        if _LOOKS_LIKE_TLS.search(name) or (isinstance(value, str) and _LOOKS_LIKE_A_MODE.fullmatch(value.strip())):
            there_are = f"there are {', '.join(known)}" if known else "there is none"
            raise RequestError(
                f"'{name}' in the extra of the connection '{conn_id}' looks like a setting of TLS, but nobody reads "
                f"it: {there_are}."
            )


def sslmode(conn_id: str, extra: Mapping[str, Any]) -> str | None:
    """
    Read the TLS mode of a PostgreSQL connection.

    :returns: libpq's setting; ``None``: its default. A configured CA implies verification of the server.
    :raises RequestError: the mode does not exist.
    """
    mode = extra.get("sslmode")
    if mode in (None, ""):
        if extra.get("sslrootcert"):
            return "verify-full"
        return "require" if extra.get("sslcert") or extra.get("sslkey") else None
    modes = (*_OTHER_MODES, *_ENCRYPTED_MODES)
    if mode not in modes:
        raise RequestError(
            f"'sslmode' in the extra of the connection '{conn_id}' must be one of {', '.join(modes)}, not {mode!r}."
        )
    return str(mode)


def check_postgres(conn_id: str, host: str, sslmode: object) -> None:
    """
    Refuse a plain-text connection to PostgreSQL, as :func:`check`.

    :param host: a path is a socket of this machine.
    :param sslmode: libpq's setting, if any.
    """
    check(
        conn_id,
        host.startswith(("/", "@")) or sslmode in _ENCRYPTED_MODES,
        f"set 'sslmode' in its extra to one of {', '.join(_ENCRYPTED_MODES)}",
    )


def check_url(conn_id: str, url: object) -> None:
    """
    Refuse a plain-text HTTP service, as :func:`check`.

    :param url: empty for a service's own endpoint, which is encrypted.
    """
    check(conn_id, not is_plain(url), "use an https:// address")


def check_store(conn_id: str, extra: dict[str, Any]) -> None:
    """Refuse a plain-text object store, as :func:`check`."""
    services = extra.get("service_config")
    own = services.get("s3") if isinstance(services, dict) else None
    for settings in (extra, own):
        if isinstance(settings, dict):
            url = settings.get("endpoint_url")
            check_url(conn_id, url)
            _check_authority(conn_id, extra, url)


def _check_authority(conn_id: str, extra: Mapping[str, Any], url: object) -> None:
    """Refuse a CA, or TLS, for a server that is reached in plain text."""
    if not is_plain(url):
        return
    asking = [name for name in ("verify", "use_ssl") if str(extra.get(name) or "false").lower() != "false"]
    if asking:
        raise RequestError(
            f"'{asking[0]}' in the extra of the connection '{conn_id}' asks for TLS, but its endpoint is http://: use "
            "https://, or leave it out."
        )


def is_plain(url: object) -> bool:
    """Whether a URL leads to a plain-text server; an empty one (a service's own endpoint) does not."""
    return isinstance(url, str) and urlsplit(url.strip()).scheme.lower() == "http"
