"""Staging folders on object stores, reached with Airflow's connections."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import ObjectStoragePath

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.staging import Folder
from airflow_reindex.hooks.connections import find_connection
from airflow_reindex.hooks.encryption import check_store

#: For S3: time-outs in seconds, and how often botocore itself tries a request that the store could not answer.
S3_OPTIONS: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"mode": "standard", "max_attempts": 5},
}


def open_folder(url: str) -> Folder:
    """
    Open a folder on a disk or an object store.

    :param url: a path, or a URL as Airflow's object storage takes it: ``s3://conn_id@bucket/prefix``. Without a
        connection id the environment's credentials count.
    :returns: the folder; it need not exist yet.
    :raises RequestError: the connection or the library for such a store is missing.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return Folder.at(url)
    try:
        where, _, bucket = urlsplit(url).netloc.rpartition("@")
    except ValueError:
        bucket = ""
    if not bucket:
        raise RequestError(f"[reindex] staging_url '{url}' names no bucket: write {scheme}://conn_id@bucket/prefix.")
    if where:
        # The provider would go on without credentials.
        check_store(where, find_connection(where, "[reindex] staging_url names it").extra_dejson)
    try:
        path = ObjectStoragePath(url, **(S3_OPTIONS if scheme == "s3" else {}))
        filesystem = path.fs
    except (ImportError, ValueError) as error:
        raise RequestError(f"staging on {scheme}:// needs a provider, for S3 airflow-reindex[s3]: {error}") from error
    return Folder(filesystem, path.path, f"{scheme}://{where}@" if where else f"{scheme}://")
