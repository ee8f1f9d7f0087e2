"""Removal of the staged files of old runs."""

from __future__ import annotations

import logging
import time

from airflow_reindex import config
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import is_run_folder
from airflow_reindex.director.model.runs import RUNS
from airflow_reindex.hooks import staging

log = logging.getLogger(__name__)


def sweep_old_folders(keep: Folder) -> None:
    """
    Remove run folders, and kept runs, without a write for longer than ``staging_retention_days``.

    :param keep: the current run's folder, which stays.
    """
    oldest = time.time() - 86_400 * config.integer("staging_retention_days")
    for dag in staging.staging_root().folders():
        for folder in dag.folders():
            if folder.root != keep.root and 0 < folder.newest() < oldest and is_run_folder(folder):
                log.info("removing the files of an old run: %s", folder.url)
                folder.remove()
    for connection in staging.kept_root().folders():
        for index in connection.folders():
            if 0 < index.newest() < oldest:
                log.info("removing the kept runs of an index that is not built any more: %s", index.url)
                index.remove(RUNS)
