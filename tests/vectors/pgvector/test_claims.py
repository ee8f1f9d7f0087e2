"""Claims: of many that want a destination, one gets it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_reindex.core.claims import Claim
from airflow_reindex.core.failures import ConflictError
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.servers.postgres import Postgres
from tests.vectors.pgvector.helpers import claim, take


def respect(found: Sequence[Claim]) -> None:
    """Leave every claim to its owner."""
    if found:
        raise ConflictError("taken")


def test_claim_s_life(store: PgVectorStore) -> None:
    mine = claim("dst", "t1")
    assert store.take(mine, respect) is None
    (seen,) = store.claims()
    assert (seen.dest, seen.source, seen.token, seen.owner) == ("dst", "src", "t1", mine.owner)
    assert 0 <= seen.silent < 5
    assert store.touch(mine)
    store.release(mine)
    store.release(mine)
    assert store.claims() == []
    assert not store.touch(mine)


def test_takeover(store: PgVectorStore) -> None:
    take(store, "dst", "t1", run="first")
    replaced = store.take(claim("dst", "t2"), lambda found: found[0])
    assert replaced is not None
    assert (replaced.token, replaced.owner.run_id) == ("t1", "first")
    assert not store.touch(claim("dst", "t1"))
    store.release(claim("dst", "t1"))
    assert [one.token for one in store.claims()] == ["t2"]


def test_refusal_changes_nothing(store: PgVectorStore) -> None:
    take(store, "dst", "t1")
    with pytest.raises(ConflictError, match="taken"):
        store.take(claim("dst", "t2"), respect)
    with pytest.raises(ConflictError, match="being built"):
        store.take(claim("dst", "t2"), lambda _: None)
    assert [one.token for one in store.claims()] == ["t1"]


def test_silence_is_by_the_server_s_clock(store: PgVectorStore, postgres: Postgres, database: str) -> None:
    take(store, "dst")
    with postgres.connect(database) as connection:
        connection.execute("UPDATE airflow_reindex.claims SET alive_at = clock_timestamp() - interval '90 s'")
    assert 90 <= store.claims()[0].silent < 100
    assert store.touch(store.claims()[0])
    assert store.claims()[0].silent < 5


def test_one_of_many_wins(store: PgVectorStore, postgres: Postgres, database: str) -> None:
    for number in range(5):
        barrier = threading.Barrier(8)

        def run(index: int, number: int = number, barrier: threading.Barrier = barrier) -> bool:
            own = PgVectorStore(connector(postgres.connection_uri(database)), label="other")
            barrier.wait()
            try:
                own.take(claim("dst", f"{number}-{index}"), respect)
            except ConflictError:
                return False
            finally:
                own.close()
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(run, range(8))) == [False] * 7 + [True]
        (winner,) = store.claims()
        store.release(winner)


def test_many_prepare_at_once(store: PgVectorStore, postgres: Postgres, database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute("DROP SCHEMA airflow_reindex CASCADE")
    barrier = threading.Barrier(6)

    def prepare(_: int) -> None:
        own = PgVectorStore(connector(postgres.connection_uri(database)), label="other")
        barrier.wait()
        own.prepare()
        own.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(prepare, range(6)))
    store.check()
    assert store.claims() == []
