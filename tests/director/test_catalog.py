"""A director table as a scan of the workers describes it."""

from __future__ import annotations

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.model.catalog import DirectorTable, check_workers, from_scan
from airflow_reindex.director.model.inventory import TableInfo
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.types import IntegerType

REQUEST = BuildRequest(database="lsst", director_table="Object")
COLUMNS = {"objectId": "bigint(20) NOT NULL", "ra": "double", "chunkId": "int(11)", "subChunkId": "int(11) NOT NULL"}
ONE = TableInfo(5, "m")


def test_each_chunk_lists_the_workers_that_have_it() -> None:
    table = from_scan({"w2": {7: ONE, 1: ONE}, "w1": {7: ONE}, "w3": {}}, COLUMNS, REQUEST)
    assert table.placement == {1: ("w2",), 7: ("w1", "w2")}
    assert list(table.placement) == [1, 7]
    assert table.key_column == "objectId"
    assert table.key_type == IntegerType.parse("BIGINT(20) NOT NULL", "objectId")
    assert table.sub_chunk_type == IntegerType.parse("INT(11) NOT NULL", "subChunkId")


@pytest.mark.parametrize(("asked", "unique"), [(None, True), (True, True), (False, False)])
def test_uniqueness_is_assumed_unless_given(asked: bool | None, unique: bool) -> None:
    request = BuildRequest(database="lsst", director_table="Object", unique_primary_key=asked)
    assert from_scan({"w1": {1: ONE}}, COLUMNS, request).unique is unique


def test_what_workers_cannot_know_is_said() -> None:
    unchecked = from_scan({"w1": {1: ONE}}, COLUMNS, REQUEST).unchecked
    assert any("published" in sentence for sentence in unchecked)
    assert any("(assumed)" in sentence for sentence in unchecked)
    given = BuildRequest(database="lsst", director_table="Object", director_key="objectId")
    assert not any("(assumed)" in sentence for sentence in from_scan({"w1": {1: ONE}}, COLUMNS, given).unchecked)


@pytest.mark.parametrize("inventories", [{}, {"w1": {}}, {"w1": {}, "w2": {}}])
def test_no_chunk_table_anywhere(inventories: dict[str, dict[int, TableInfo]]) -> None:
    with pytest.raises(RequestError, match="no such table 'Object' found in the database 'lsst'"):
        from_scan(inventories, {}, REQUEST)


def test_the_key_keeps_the_catalogs_spelling() -> None:
    request = BuildRequest(database="lsst", director_table="Object", director_key="OBJECTID")
    columns = {"objectId": "bigint", "SUBCHUNKID": "int"}
    assert from_scan({"w1": {1: ONE}}, columns, request).key_column == "objectId"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"subChunkId": "int"}, "'objectId'"),
        ({"objectId": "bigint"}, "'subChunkId'"),
        ({}, "'objectId'"),
        ({"objectId": "varchar(20)", "subChunkId": "int"}, "unsupported type 'varchar.20.' of column 'objectId'"),
        ({"objectId": "bigint", "subChunkId": "float"}, "unsupported type 'float' of column 'subChunkId'"),
    ],
)
def test_columns_that_do_not_fit(columns: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_scan({"w1": {1: ONE}}, columns, REQUEST)


@pytest.mark.parametrize("key", ["chunkId", "CHUNKID", "subChunkId"])
def test_the_indexs_own_columns_cannot_be_the_key(key: str) -> None:
    request = BuildRequest(database="lsst", director_table="Object", director_key=key)
    with pytest.raises(RequestError, match="the director key cannot be"):
        from_scan({"w1": {1: ONE}}, COLUMNS, request)


def table_with(placement: dict[int, tuple[str, ...]]) -> DirectorTable:
    kind = IntegerType.parse("BIGINT", "objectId")
    return DirectorTable("objectId", kind, kind, True, placement)


def test_one_known_replica_is_enough() -> None:
    check_workers(table_with({1: ("gone", "w1"), 2: ("w1",)}), {"w1": None})


@pytest.mark.parametrize("workers", [("gone",), ("gone", "lost")])
def test_a_chunk_out_of_reach_is_refused(workers: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="chunk 2 is placed on worker 'gone'"):
        check_workers(table_with({1: ("w1",), 2: workers}), {"w1": None})
