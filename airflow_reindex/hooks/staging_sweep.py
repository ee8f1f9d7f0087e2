"""Removal of the staged files of old runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from airflow_reindex import config
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import is_run_folder
from airflow_reindex.director.model.runs import RUNS
from airflow_reindex.hooks import staging

log = logging.getLogger(__name__)


def old_folders() -> Iterator[Folder]:
    """
    Find run folders, and kept runs, in which nothing was written for longer than ``staging_retention_days``.

    :yields: each; it may be removed with all that is in it.
    """
    oldest = time.time() - 86_400 * config.integer("staging_retention_days")
    for dag in staging.staging_root().folders():
        yield from (folder for folder in dag.folders() if 0 < folder.newest() < oldest and is_run_folder(folder))
    for connection in staging.kept_root().folders():
        for runs in (index.child(RUNS) for index in connection.folders()):
            if 0 < runs.newest() < oldest:
                yield runs


def remove_expired_folders(keep: Folder) -> None:
    """
    Remove what :func:`old_folders` finds.

    :param keep: the present run's folder.
    """
    for folder in old_folders():
        if folder.root != keep.root:
            log.info("removing staged files older than staging_retention_days: %s", folder.url)
            folder.remove()
