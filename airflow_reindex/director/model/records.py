"""The files that steps of a build leave for later ones: plan, groups, split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

import pyarrow.parquet as pq

from airflow_reindex.core import task_records
from airflow_reindex.core.failures import Code, ReindexError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, TASKS, plan_value
from airflow_reindex.director.model.plan import Plan, PlannedChunk, group_as_list, group_from_list
from airflow_reindex.director.model.split import RunFiles, Split
from airflow_reindex.director.mysql.client import mysql_reason

SPLIT = "split.json"
FILES = "files.parquet"
#: Records a task of a build or an audit: what MySQL says is described by its number and text, without a traceback.
recorded = partial(task_records.recorded, explain=mysql_reason)


def write_plan(folder: Folder, plan: Plan) -> None:
    """Write a plan, with its groups first, one per line: a task parses its own line only."""
    lines = (json.dumps(group_as_list(group), separators=(",", ":")) for group in plan.groups)
    folder.write(groups_file(plan.token), "".join(f"{line}\n" for line in lines).encode())
    folder.write_json(PLAN, plan.as_dict())


def groups_file(token: str) -> str:
    """The name of the file with a plan's groups, in the run's folder."""
    return f"groups-{token}.ndjson"


def remove_earlier(folder: Folder, *names: str) -> None:
    """Remove what an earlier plan of the run has left: these files, its groups, and the records of later tasks."""
    for name in (*names, *(name for name in folder.names() if name.startswith("groups-"))):
        folder.remove(name)
    for name in folder.names(TASKS):
        # A record that another delivery of this task is just writing has a dot before its name.
        if not name.lstrip(".").startswith("plan-"):
            folder.remove(f"{TASKS}/{name}")


def read_plan(folder: Folder, token: str | None = None) -> Plan:
    """Read the run's plan, without its groups; parameters and errors are those of :func:`plan_value`."""
    plan = Plan.from_dict(plan_value(folder, token))
    if plan.planned_chunks and not plan.group_workers:
        # The first version wrote them into its groups only.
        plan = replace(plan, group_workers=tuple(group[0].workers[0] for group in read_groups(folder, plan)))
    return plan


def read_groups(folder: Folder, plan: Plan) -> Iterator[tuple[PlannedChunk, ...]]:
    """The chunks of each of a plan's groups, in order."""
    with _opened(folder, groups_file(plan.token)) as stream:
        for line in stream:
            yield group_from_list(json.loads(line))


def read_group(folder: Folder, plan: Plan, number: int) -> tuple[PlannedChunk, ...]:
    """
    Read one group of a plan.

    :raises ReindexError: when the plan has no such group.
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


def write_split(folder: Folder, split: Split, source: RunFiles) -> None:
    """Write a split, and the files that it covers."""
    with folder.create(FILES) as stream:
        pq.write_table(source.table, stream)
    folder.write_json(SPLIT, split.as_dict())


def read_split(folder: Folder) -> Split:
    """
    Read the run's split.

    :raises ReindexError: when there is none.
    """
    value = folder.read_json(SPLIT)
    if value is None:
        raise ReindexError(
            f"there is no split in {folder.url}: clear this run from its task 'split' on.", code=Code.STALE_PLAN
        )
    return Split.from_dict(value)


def read_source(folder: Folder) -> RunFiles:
    """Read which files the run's split covers."""
    with _opened(folder, FILES) as stream:
        return RunFiles(pq.read_table(stream))
