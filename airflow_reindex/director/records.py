"""What the steps of a build read of those before them: plan and split."""

from __future__ import annotations

from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.records import plan_value
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.plan import Plan
from airflow_reindex.director.split import Split

SPLIT = "split.json"


def read_plan(folder: Folder, token: str | None = None) -> Plan:
    """
    Read the run's plan.

    :param folder: the run's folder.
    :param token: the token that the caller was given; ``None`` to take what is there.
    :returns: the plan.
    :raises ReindexError: there is none, or it is another plan than the caller's.
    """
    return Plan.from_dict(plan_value(folder, token))


def read_split(folder: Folder) -> Split:
    """
    Read the run's split.

    :param folder: the run's folder.
    :returns: the split.
    :raises ReindexError: there is none.
    """
    value = folder.read_json(SPLIT)
    if value is None:
        raise ReindexError(f"there is no split in {folder.url}: clear this run from its task 'split' on.")
    return Split.from_dict(value)
