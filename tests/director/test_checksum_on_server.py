"""The checksum of rows is the same on the server and in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_reindex.director.mysql.types import Checksum, Rows
from sandbox.servers.cluster import Sandbox

P = 2147483647


@pytest.mark.parametrize(
    ("key_type", "sub_type", "keys", "subs"),
    [
        ("BIGINT", "INT", [-(2**63), -1, 0, 1, P, -P, 2**63 - 1], [-5, 0, 1, 2, 3, -1, 2**31 - 1]),
        ("BIGINT UNSIGNED", "INT UNSIGNED", [0, 1, P, 2**63, 2**64 - 1], [0, 2**32 - 1, 1, 2, 3]),
        ("INT", "BIGINT UNSIGNED", [-(2**31), 0, 2**31 - 1], [2**64 - 1, 2**63, 0]),
        ("BIGINT", "BIGINT", [5, -5], [-(2**63), 2**63 - 1]),
        ("INT UNSIGNED", "SMALLINT", [], []),
    ],
)
def test_server_and_numpy_agree(
    sandbox: Sandbox, key_type: str, sub_type: str, keys: list[int], subs: list[int]
) -> None:
    chunks = [0, 1, 57_870, 2**31 - 1, 7, 8, 9][: len(keys)]
    connection = sandbox.czar.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET sql_mode = 'STRICT_ALL_TABLES'")
            cursor.execute("CREATE DATABASE IF NOT EXISTS checksums")
            cursor.execute(
                f"CREATE OR REPLACE TABLE checksums.t (k {key_type} NOT NULL, chunkId INT, subChunkId {sub_type})"
            )
            cursor.executemany(
                "INSERT INTO checksums.t VALUES (%s, %s, %s)", list(zip(keys, chunks, subs, strict=True))
            )
            cursor.execute(f"SELECT {Checksum.select('k')} FROM checksums.t", ())
            found = Checksum.from_row(cursor.fetchone())
            cursor.execute("DROP DATABASE checksums")
    finally:
        connection.close()
    key_dtype = np.uint64 if key_type == "BIGINT UNSIGNED" else np.int64
    sub_dtype = np.uint64 if sub_type == "BIGINT UNSIGNED" else np.int64
    rows = Rows(np.array(keys, key_dtype), np.array(chunks, np.int32), np.array(subs, sub_dtype))
    assert found == Checksum.of(rows)
