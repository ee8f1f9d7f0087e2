"""What tests of failing builds share: an old index that must survive, and changes that make builds fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest import mock

import MySQLdb

from airflow_reindex.core.failures import ReindexError
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, run_sql

SPEC = CatalogSpec(rows=4_000, chunks=12, empty_chunks=0)
OLD_ROWS = [(1, 2, 3), (4, 5, 6)]

#: The fixture `registered`.
Register = Callable[..., str]


def make_old_index(run: Build) -> None:
    run_sql(
        run.sandbox.czar,
        f"CREATE OR REPLACE TABLE {live(run)} (objectId BIGINT NOT NULL, chunkId INT, subChunkId INT, "
        "UNIQUE KEY (objectId)) ENGINE=InnoDB",
        f"INSERT INTO {live(run)} VALUES {', '.join(map(str, OLD_ROWS))}",
    )


def live(run: Build) -> str:
    return f"qservMeta.`{run.request.index_table}`"


def assert_old_index(run: Build) -> None:
    assert run_sql(run.sandbox.czar, f"SELECT * FROM {live(run)} ORDER BY 1") == OLD_ROWS


def fails(step: Callable[[int], None], numbers: Sequence[int], kind: type[ReindexError]) -> list[str]:
    """Run all tasks of a step; the messages of those that fail, all of one kind."""
    errors = []
    for number in numbers:
        try:
            step(number)
        except ReindexError as error:
            errors.append(error)
    assert {type(error) for error in errors} <= {kind}
    return [str(error) for error in errors]


def worker_of(made: CatalogSummary, chunk: int) -> str:
    """The only worker that has a chunk."""
    (worker,) = made.placement[chunk]
    return worker


def change(sandbox: Sandbox, made: CatalogSummary, chunk: int, *statements: str) -> None:
    """Change a chunk table, which the statements call {table}."""
    table = f"`{made.spec.database}`.`Object_{chunk}`"
    run_sql(sandbox.workers[worker_of(made, chunk)], *(text.format(table=table) for text in statements))


def silence(run: Build, worker: str) -> None:
    """From now on a worker does not answer."""
    down = mock.Mock(side_effect=MySQLdb.OperationalError(2003, "Can't connect"))
    run.servers = replace(run.servers, workers={**run.servers.workers, worker: down})


def configure(sandbox: Sandbox, statement: str) -> None:
    """Change the replication system's tables."""
    run_sql(sandbox.czar, "USE qservReplica", statement)
