"""Staging folders on disks and object stores, reached with Airflow's connections."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import ObjectStoragePath
from airflow.sdk.configuration import conf

from airflow_reindex.config import SECTION
from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.staging import Folder
from airflow_reindex.hooks.connections import find_connection
from airflow_reindex.hooks.encryption import check_store

#: For S3: time-outs in seconds, and botocore's own attempts for a request that the store could not answer.
S3_OPTIONS: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"mode": "standard", "max_attempts": 5},
}


def open_folder(url: str) -> Folder:
    """
    Open a folder on a disk or an object store; it need not exist yet.

    :param url: a path, or a URL as Airflow's object storage takes it: ``s3://conn_id@bucket/prefix``. Without a
        connection id the environment's credentials are used.
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
        # The provider would continue without credentials.
        check_store(where, find_connection(where, "[reindex] staging_url names it").extra_dejson)
    try:
        path = ObjectStoragePath(url, **(S3_OPTIONS if scheme == "s3" else {}))
        filesystem = path.fs
    except (ImportError, ValueError) as error:
        raise RequestError(f"staging on {scheme}:// needs a provider, for S3 airflow-reindex[s3]: {error}") from error
    return Folder(filesystem, path.path, f"{scheme}://{where}@" if where else f"{scheme}://")


def staging_root() -> Folder:
    """The folder of ``staging_url``, by default one under AIRFLOW_HOME."""
    url = conf.get(SECTION, "staging_url", fallback="")
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return open_folder(url or os.path.join(os.path.expanduser(home), "reindex-staging"))  # noqa: PTH111, PTH118


def run_folder(dag_id: str, run_id: str) -> Folder:
    """A run's folder, ``<staging_url>/<dag_id>/<run_id>``."""
    return staging_root().child(dag_id, run_id)


def former_folder(url: str) -> Folder:
    """
    The folder of a run that this one takes over from.

    :param url: from its claim, which is not trusted with connections.
    :returns: an empty folder when the URL is outside of this deployment's staging folder.
    """
    root = staging_root()
    return root.inside(url) or root.child("elsewhere")


def kept_runs(conn_id: str, index: str) -> Folder | None:
    """Folder with the sorted runs of an index's last build, kept for the next one; ``None`` when none are kept."""
    return kept_root().child(conn_id, index) if conf.getboolean(SECTION, "keep_runs") else None


def kept_root() -> Folder:
    """Folder of all kept runs; no DAG id can clash, as its name has a blank."""
    return staging_root().child("kept runs")
