"""
How fast a collection is reindexed: `python -m benchmarks.collection --help`.

First the `reindex` step against its slowest stage, with an embedding server that waits instead of computing, so that
the stages do not compete for the same cores. Then the ANN index: built after loading, and grown while loading.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import psycopg

from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.embedding.bisect import embed_items
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings
from airflow_reindex.vectors.embedding.pipeline import Batch, EmbeddingPipeline, Unit, read_units
from airflow_reindex.vectors.model.collection import CollectionInfo, Embedded, Item, SyncState
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, ModelSpec
from airflow_reindex.vectors.model.splitting import Splitter
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from airflow_reindex.vectors.sync.decide import Rules
from airflow_reindex.vectors.sync.reconcile import Reconciler
from sandbox.collection.texts import passages
from sandbox.servers.postgres import Postgres

OLD = "old"
T = TypeVar("T")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collection", description=__doc__)
    parser.add_argument("--items", type=int, default=20_000, help="items of the source (default: 20,000)")
    parser.add_argument("--dimensions", type=int, default=256, help="of the vectors (default: 256)")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds a request (default: 0.1)")
    parser.add_argument("--batch-size", type=int, default=64, help="texts a request (default: 64)")
    parser.add_argument("--in-flight", type=int, default=4, help="requests at the same time (default: 4)")
    parser.add_argument("--index-items", type=int, default=5_000, help="items of the index's comparison")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reindex-benchmark-") as folder, Postgres(Path(folder) / "pg") as server:
        server.create_database("bench")
        with _embedding_server(options) as url:
            bench = Bench(server, options, url)
            bench.stages()
            bench.index()


@contextmanager
def _embedding_server(options: argparse.Namespace) -> Iterator[str]:
    """In a process of its own: its work must not hold this one's interpreter."""
    command = [
        sys.executable, "-m", "sandbox.servers.embedding_server", "--port", "0",
        "--model", f"new={options.dimensions}", "--latency", str(options.latency),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a list of arguments of its own, no shell
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield next(word for word in line.split() if word.startswith("http"))
        finally:
            process.terminate()


class Bench:
    """
    Both measurements.

    :param server: PostgreSQL, with its default safety.
    :param options: the command line's.
    :param url: the embedding server's.
    """

    def __init__(self, server: Postgres, options: argparse.Namespace, url: str) -> None:
        self.options = options
        self.store = PgVectorStore(connector(server.connection_uri("bench")), label="bench")
        self.model: EmbeddingModel = open_model(
            ModelSpec(
                model_id="new",
                backend="openai",
                name="new",
                dimensions=options.dimensions,
                batch_size=options.batch_size,
                in_flight=options.in_flight,
                url=f"{url}/v1",
                options={"encoding_format": "base64"},
            ),
            {},
        )
        self.pipeline = EmbeddingPipeline(
            model=self.model, loader=PayloadLoader(PayloadSettings(fields=("text",))), splitter=Splitter()
        )
        self.store.prepare()
        with server.connect("bench") as connection:
            _make_source(connection, options.items)
        self.source = self.store.open(OLD)
        self.keys = [key for keys in self.source.keys(10_000) for key in keys]

    def destination(self, name: str) -> str:
        """A new destination; its claim's token."""
        claim = Claim(dest=name, source=OLD, token=f"token-{name}", owner=Owner("bench", "", "", "", ""))
        self.store.take(claim, lambda _: None)
        info = CollectionInfo(collection_id=name, embedding_model_id=name, dimensions=self.options.dimensions)
        self.store.create(claim.token, info)
        return claim.token

    def stages(self) -> None:
        """Reading, embedding and writing, each alone; then all of it."""
        items = self.options.items
        units, reading = _timed(lambda: list(read_units(self.source, self.keys, self.pipeline, _mark)))
        batches, embedding = _timed(lambda: self._embed(units))
        token = self.destination("alone")
        alone = self.store.open("alone")
        embedded = [item for batch in batches for item in batch.embedded]
        _, writing = _timed(lambda: [alone.put(token, some) for some in _slices(embedded, 2000)])
        token = self.destination("whole")
        reconciler = Reconciler(
            source=self.source, dest=self.store.open("whole"), pipeline=self.pipeline, token=token, check=lambda: None
        )
        tally, whole = _timed(lambda: reconciler.run(None, None, Rules(embedding_config_hash=b"", plan_token=token)))
        assert tally.embedded == items == self.store.open("whole").count()
        slowest = max(reading, embedding, writing)
        for name, seconds in (("reading alone", reading), ("embedding alone", embedding), ("writing alone", writing),
                              ("the step reindex", whole)):  # fmt: skip
            print(f"{name:<28}{seconds:8.2f} s {items / seconds:10,.0f} items/s")
        print(f"{'ratio to the slowest stage':<28}{whole / slowest:8.2f}   (bar: at most 1.2)\n")

    def _embed(self, units: Sequence[Unit]) -> list[Batch]:
        """As many requests at the same time as the step has, and nothing else."""
        done, pending = [], deque[Future[Batch]]()
        with ThreadPoolExecutor(self.options.in_flight) as pool:
            for unit in units:
                pending.append(pool.submit(lambda unit: Batch(*embed_items(self.model, unit.ready), 0), unit))
                if len(pending) >= 2 * self.options.in_flight:
                    done.append(pending.popleft().result())
            done += [future.result() for future in pending]
        return done

    def index(self) -> None:
        """The ANN index built after loading, and grown while loading."""
        count, dimensions = self.options.index_items, self.options.dimensions
        random = np.random.default_rng(0)
        made = [
            Embedded(Item(f"i{number}", "{}", None, b"v"), vectors, SyncState(b"v", b""))
            for number, vectors in enumerate(random.normal(size=(count, 1, dimensions)).astype(np.float32))
        ]
        seconds = {}
        for name, first in (("after loading", False), ("before loading", True)):
            collection_id = name.replace(" ", "_")
            token = self.destination(collection_id)
            dest = self.store.open(collection_id)
            began = time.perf_counter()
            if first:
                dest.build_index(token)
            for some in _slices(made, 500):
                dest.put(token, some)
            dest.build_index(token)
            seconds[name] = time.perf_counter() - began
            print(f"index {name:<22}{seconds[name]:8.2f} s {2 * count / seconds[name]:10,.0f} vectors/s")
        print(f"{'before / after':<28}{seconds['before loading'] / seconds['after loading']:8.2f}")


def _make_source(connection: psycopg.Connection[tuple[object, ...]], count: int) -> None:
    connection.execute(
        "CREATE TABLE dbo_old (object_id varchar(128) PRIMARY KEY, payload jsonb, storage_meta jsonb, "
        "original_id varchar(128), user_id varchar(128), session_id varchar(128)); "
        "CREATE TABLE dbop_old (part_id varchar(128) PRIMARY KEY, object_id varchar(128), vector vector(4), "
        "is_average boolean, user_id varchar(128)); GRANT SELECT ON dbo_old, dbop_old TO reindex"
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO dbo_old VALUES (%s, jsonb_build_object('text', %s::text))",
            [(f"item-{number:08}", text) for number, text in enumerate(passages(count))],
        )
    connection.execute("ANALYZE dbo_old")


def _mark(item: Item, content: str) -> SyncState:
    return SyncState(item.version, b"", content)


def _slices(items: Sequence[Embedded], size: int) -> Iterator[Sequence[Embedded]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


if __name__ == "__main__":
    main()
