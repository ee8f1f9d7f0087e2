"""What the steps of a build read of those before them: plan, groups, split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import pyarrow.parquet as pq

from airflow_reindex.core import task_records
from airflow_reindex.core.failures import Code, ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, plan_value
from airflow_reindex.director.model.plan import Plan, PlannedChunk, group_as_list, group_from_list
from airflow_reindex.director.model.split import Source, Split
from airflow_reindex.director.mysql.client import mysql_reason

SPLIT = "split.json"
FILES = "files.parquet"
#: Records a task of a build or an audit: what MySQL says is described by its number and text, without a traceback.
recorded = partial(task_records.recorded, explain=mysql_reason)


def write_plan(folder: Folder, plan: Plan) -> None:
    """
    Write a plan: its groups first, a line each, so that a task reads its own without making objects of all others.

    :param folder: the run's folder.
    :param plan: the plan.
    """
    lines = (json.dumps(group_as_list(group), separators=(",", ":")) for group in plan.groups)
    folder.write(groups_file(plan.token), "".join(f"{line}\n" for line in lines).encode())
    folder.write_json(PLAN, plan.as_dict())


def groups_file(token: str) -> str:
    """
    Where a plan's groups lie.

    :param token: the plan's token.
    :returns: a name in the run's folder.
    """
    return f"groups-{token}.ndjson"


def read_plan(folder: Folder, token: str | None = None) -> Plan:
    """
    Read the run's plan, without its groups.

    :param folder: the run's folder.
    :param token: the token that the caller was given; ``None`` to take what is there.
    :returns: the plan.
    :raises ReindexError: there is none, or it is another plan than the caller's.
    """
    return Plan.from_dict(plan_value(folder, token))


def read_groups(folder: Folder, plan: Plan) -> Iterator[tuple[PlannedChunk, ...]]:
    """
    Read a plan's groups, one after the other.

    :param folder: the run's folder.
    :param plan: the plan.
    :yields: the chunks of each group.
    """
    with _opened(folder, groups_file(plan.token)) as stream:
        for line in stream:
            yield group_from_list(json.loads(line))


def read_group(folder: Folder, plan: Plan, number: int) -> tuple[PlannedChunk, ...]:
    """
    Read one group of a plan.

    :param folder: the run's folder.
    :param plan: the plan.
    :param number: the group's number.
    :returns: its chunks.
    :raises ReindexError: the plan has no such group.
    """
    with _opened(folder, groups_file(plan.token)) as stream:
        for position, line in enumerate(stream):
            if position == number:
                return group_from_list(json.loads(line))
    raise ReindexError(
        f"the plan in {folder.url} has no group {number}: clear this run from its task 'plan' on.", code=Code.STALE_PLAN
    )


def _opened(folder: Folder, name: str) -> BinaryIO:
    try:
        return folder.open(name)
    except FileNotFoundError as error:
        raise ReindexError(
            f"{name} is gone from {folder.url}: clear this run from its task 'plan' on.", code=Code.STALE_PLAN
        ) from error


def write_split(folder: Folder, split: Split, source: Source) -> None:
    """
    Write a split.

    :param folder: the run's folder.
    :param split: the split.
    :param source: the files that it covers.
    """
    with folder.create(FILES) as stream:
        pq.write_table(source.table, stream)
    folder.write_json(SPLIT, split.as_dict())


def read_split(folder: Folder) -> Split:
    """
    Read the run's split.

    :param folder: the run's folder.
    :returns: the split.
    :raises ReindexError: there is none.
    """
    value = folder.read_json(SPLIT)
    if value is None:
        raise ReindexError(
            f"there is no split in {folder.url}: clear this run from its task 'split' on.", code=Code.STALE_PLAN
        )
    return Split.from_dict(value)


def read_source(folder: Folder) -> Source:
    """
    Read which files the run's split covers.

    :param folder: the run's folder.
    :returns: the files.
    """
    with _opened(folder, FILES) as stream:
        return Source(pq.read_table(stream))
