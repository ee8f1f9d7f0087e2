"""Claims: of many that want a destination, one gets it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from airflow_reindex.core.failures import ConflictError
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.servers.postgres import Postgres
from tests.vectors.contract.samples import claim, respect, take


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
