"""What tasks leave in the run's folder, whether they end well or not."""

from __future__ import annotations

from dataclasses import replace

import MySQLdb
import pytest

from airflow_reindex.core.failures import ClaimLostError, Code, ConflictError, DataError, ReindexError, RequestError
from airflow_reindex.core.report import Failure
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, REPORT, TASKS, drop_staged, now, recorded, task_records
from airflow_reindex.director.model import records
from airflow_reindex.director.model.records import SPLIT, read_group, read_groups, read_plan, read_split, write_plan
from airflow_reindex.director.model.split import make_split
from tests.support.samples import TOKEN, make_plan, manifest, planned


def test_a_task_that_dies_silently_is_known_to_have_started(folder: Folder) -> None:
    with recorded(folder, "extract", 3, TOKEN):
        (record,) = task_records(folder)
        assert (record.task, record.index, record.token, record.ended_at) == ("extract", 3, TOKEN, "")
        assert record.started_at


def test_a_record_reads_back(folder: Folder) -> None:
    with recorded(folder, "load", 0, TOKEN) as record:
        record.rows, record.result = 5, {"a": 1}
        record.failures = [Failure(table="t", worker="w", chunk=1, message="m", kind=Code.ACCESS)]
    (again,) = task_records(folder)
    assert again == record
    assert again.started_at <= again.ended_at <= now()
    assert again.error == ""


@pytest.mark.parametrize(
    ("error", "text", "code", "refused"),
    [
        (RequestError("wrong"), "wrong", "refused", True),
        (RequestError("none", code=Code.UNKNOWN_TABLE), "none", "unknown_table", True),
        (ConflictError("busy"), "busy", "conflict", True),
        (DataError("bad"), "bad", "bad_data", False),
        (ClaimLostError("lost"), "lost", "claim_lost", False),
    ],
)
def test_an_error_is_recorded_and_goes_on(
    folder: Folder, error: Exception, text: str, code: str, refused: bool
) -> None:
    with pytest.raises(type(error)), recorded(folder, "plan"):
        raise error
    (record,) = task_records(folder)
    assert (record.error, record.code, record.refused) == (text, code, refused)
    assert record.ended_at


def test_an_unexpected_error_is_recorded_with_its_traceback(folder: Folder) -> None:
    with pytest.raises(ValueError, match="odd"), recorded(folder, "plan"):
        raise ValueError("odd")
    (record,) = task_records(folder)
    assert record.code is Code.UNEXPECTED
    assert record.error.endswith('    raise ValueError("odd")\nValueError: odd')
    assert not record.refused


def test_what_mysql_says_is_recorded_without_a_traceback(folder: Folder) -> None:
    with pytest.raises(MySQLdb.Error), records.recorded(folder, "extract", 0, TOKEN):
        raise MySQLdb.OperationalError(2013, "Lost connection to server during query")
    (record,) = task_records(folder)
    assert (record.error, record.code) == ("error: Lost connection to server during query, errno: 2013", "connection")


def test_records_of_earlier_versions_are_read(folder: Folder) -> None:
    with recorded(folder, "load", 0, TOKEN) as record:
        record.failures = [Failure(table="t", worker="w", chunk=1, message="m", kind=Code.ACCESS)]
    (name,) = folder.names(TASKS)
    value = folder.read_json(f"{TASKS}/{name}")
    del value["code"], value["failures"][0]["kind"]
    folder.write_json(f"{TASKS}/{name}", value)
    (old,) = task_records(folder)
    assert (old.code, old.failures[0].kind) == (Code.OTHER, Code.OTHER)


def test_a_later_try_replaces_an_earlier_one(folder: Folder) -> None:
    for rows in (1, 2):
        with recorded(folder, "extract", 0, TOKEN) as record:
            record.rows = rows
    with recorded(folder, "extract", 10, TOKEN):
        pass
    assert [(record.index, record.rows) for record in task_records(folder)] == [(0, 2), (10, 0)]


def test_the_plan_must_be_the_tasks_own(folder: Folder) -> None:
    with pytest.raises(ReindexError, match="gone"):
        read_plan(folder)
    plan = make_plan([[planned(1)]])
    write_plan(folder, plan)
    assert read_plan(folder) == read_plan(folder, TOKEN) == replace(plan, groups=(), group_workers=("w1",))
    assert tuple(read_groups(folder, plan)) == plan.groups
    assert read_group(folder, plan, 0) == plan.groups[0]
    with pytest.raises(ReindexError, match="no group 1"):
        read_group(folder, plan, 1)
    with pytest.raises(ReindexError, match="not the one this task was made for"):
        read_plan(folder, "other")


def test_a_plan_of_the_first_version_is_read(folder: Folder) -> None:
    plan = make_plan([[planned(1, "w2", "w1")], [planned(2, "w1")]])
    write_plan(folder, plan)
    value = folder.read_json(PLAN)
    assert value is not None
    del value["group_workers"]
    folder.write_json(PLAN, value)
    assert read_plan(folder).first_workers == ("w2", "w1")


def test_the_split_reads_back(folder: Folder) -> None:
    with pytest.raises(ReindexError, match="no split"):
        read_split(folder)
    split = make_split(TOKEN, [manifest("a", [1])], 10)
    folder.write_json(SPLIT, split.as_dict())
    assert read_split(folder) == split


def test_only_the_report_outlives_a_build(folder: Folder) -> None:
    for name in (PLAN, SPLIT, REPORT, f"{TASKS}/plan--1.json", "runs/a.parquet", "error_ext.json"):
        folder.write(name, b"{}")
    drop_staged(folder)
    assert folder.names() == [REPORT]
