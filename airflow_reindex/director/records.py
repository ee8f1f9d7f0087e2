"""What the steps of a build read of those before them: plan and split."""

from __future__ import annotations

from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.records import PLAN
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
    value = folder.read_json(PLAN)
    if value is None or (token is not None and value["token"] != token):
        raise ReindexError(
            f"the plan in {folder.url} is {'gone' if value is None else 'not the one this task was made for'}: clear "
            "this run from its task 'plan' on."
        )
    return Plan.from_dict(value)


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
