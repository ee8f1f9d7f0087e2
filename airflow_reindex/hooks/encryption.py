"""The deployment's rule that no connection may go over a network in plain text: `[reindex] require_tls`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.sdk.configuration import conf

from airflow_reindex.core.failures import RequestError

#: Not taken from `config`, which imports the hooks of staging folders.
SECTION = "reindex"
#: What libpq calls a connection that cannot be in plain text.
_ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")


def is_required() -> bool:
    """
    Whether the deployment requires TLS.

    :returns: the setting.
    """
    return bool(conf.getboolean(SECTION, "require_tls", fallback=False))


def check(conn_id: str, encrypted: bool, advice: str) -> None:
    """
    Refuse a connection in plain text, where the deployment requires TLS.

    :param conn_id: the connection, or what the message shall call it.
    :param encrypted: whether it is set to be encrypted, or never leaves the machine.
    :param advice: what to set.
    :raises RequestError: it is neither.
    """
    if not encrypted and is_required():
        raise RequestError(f"the connection '{conn_id}' is in plain text, but [reindex] require_tls is set: {advice}.")


def check_postgres(conn_id: str, host: str, sslmode: object) -> None:
    """
    Refuse a connection to PostgreSQL in plain text.

    :param conn_id: the connection.
    :param host: its host; a path is a socket of this machine.
    :param sslmode: libpq's setting, if any.
    :raises RequestError: as :func:`check`.
    """
    check(
        conn_id,
        host.startswith(("/", "@")) or sslmode in _ENCRYPTED_MODES,
        f"set 'sslmode' in its extra to one of {', '.join(_ENCRYPTED_MODES)}",
    )


def check_url(conn_id: str, url: object) -> None:
    """
    Refuse an HTTP service in plain text.

    :param conn_id: the connection.
    :param url: its URL; nothing stands for a service's own endpoint, which is encrypted.
    :raises RequestError: as :func:`check`.
    """
    plain = isinstance(url, str) and urlsplit(url.strip()).scheme.lower() == "http"
    check(conn_id, not plain, "use an https:// address")


def check_store(conn_id: str, extra: dict[str, Any]) -> None:
    """
    Refuse an object store in plain text.

    :param conn_id: the connection of type ``aws``.
    :param extra: its extra.
    :raises RequestError: as :func:`check`.
    """
    services = extra.get("service_config")
    own = services.get("s3") if isinstance(services, dict) else None
    for settings in (extra, own):
        if isinstance(settings, dict):
            check_url(conn_id, settings.get("endpoint_url"))
