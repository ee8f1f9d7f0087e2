"""A worker's server that dies while a chunk is streamed: no part of the chunk counts, another replica serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import TransientError
from airflow_reindex.director import steps
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.load.merge import Merger
from airflow_reindex.director.model.split import KeyRange, RunFiles
from airflow_reindex.director.mysql import integer_reader
from airflow_reindex.director.mysql.binary_protocol import Wire
from airflow_reindex.director.mysql.types import Checksum, Rows
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate, truth
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, assert_same, clean_czar, count_reads, run_sql

WORKER, OTHER = "worker-1", "worker-2"
#: One worker's largest chunk does not fit into the buffers between the server and its client.
SPEC = CatalogSpec(database="sky_worker", rows=20_000, chunks=12, empty_chunks=0)
BIG_ROWS, FIRST_KEY = 800_000, 10**18
BATCH_ROWS = 50_000


@pytest.fixture(scope="module", params=[1, 2], ids=["one replica", "two replicas"])
def sky(shaky: Sandbox, request: pytest.FixtureRequest) -> CatalogSummary:
    """A catalog with one large chunk table on WORKER, and a copy of it on OTHER if there are replicas."""
    made = generate(shaky, CatalogSpec(**{**vars(SPEC), "database": f"sky_worker_{request.param}",
                                          "replicas": request.param}))  # fmt: skip
    chunk = big_chunk(made)
    table = f"`{made.spec.database}`.`Object_{chunk}`"
    for name in made.placement[chunk]:
        run_sql(
            shaky.workers[name],
            f"DROP TABLE {table}",
            f"CREATE TABLE {table} (objectId BIGINT NOT NULL, subChunkId INT UNSIGNED NOT NULL) ENGINE=MyISAM "
            f"SELECT {FIRST_KEY} + seq AS objectId, seq % 9 AS subChunkId FROM mysql.seq_1_to_{BIG_ROWS}",
        )
    return made


@pytest.fixture
def mending(shaky: Sandbox) -> Iterator[None]:
    """Starts all servers again after the test, and removes its claim: the next one would take over what is staged."""
    with clean_czar(shaky):
        yield
        for server in shaky.servers:
            server.start()


def big_chunk(made: CatalogSummary) -> int:
    """The chunk that WORKER serves in the middle of its list."""
    mine = [chunk for chunk, workers in sorted(made.placement.items()) if workers[0] == WORKER]
    return mine[len(mine) // 2]


def kill_while_streaming(
    sandbox: Sandbox, chunk: int, monkeypatch: pytest.MonkeyPatch, after: int = 4
) -> Callable[[], int]:
    """Kill WORKER when some batches of the chunk have come from it; returns how many came in all before the error."""
    batches = 0
    real = extractor.stream

    def stream(source: Any, plan: Any, number: int) -> Any:
        nonlocal batches
        for rows in real(source, plan, number):
            if number == chunk:
                batches += 1
                if batches == after:
                    sandbox.workers[WORKER].kill()
            yield rows

    monkeypatch.setattr(extractor, "stream", stream)
    return lambda: batches


@pytest.mark.parametrize("way", ["socket", "driver"])
@pytest.mark.usefixtures("one_group_a_worker", "mending")
def test_worker_killed_in_mid_chunk(
    sky: CatalogSummary, shaky: Sandbox, shaky_build: Callable[..., Build], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(integer_reader, "FETCH_ROWS", BATCH_ROWS)
    monkeypatch.setattr(integer_reader, "Wire", partial(Wire, buffer_bytes=18 * BATCH_ROWS))
    if way == "driver":
        monkeypatch.setattr(integer_reader, "usable", lambda _: False)
    run = shaky_build(sky.spec.database)
    # Parts of the large chunk have been written when its worker dies.
    run.rows_in_memory = 2 * BATCH_ROWS
    plan = run.plan()
    chunk = big_chunk(sky)
    (group,) = [i for i, chunks in enumerate(plan.groups) if chunk in {c.chunk for c in chunks}]
    planned = [c.chunk for c in plan.groups[group]]
    served_by = {c.chunk: c.workers for c in plan.groups[group]}
    if served_by[chunk][0] != WORKER:
        pytest.fail("the large chunk is planned on the other worker")
    batches = kill_while_streaming(shaky, chunk, monkeypatch)
    if sky.spec.replicas == 1:
        with pytest.raises(TransientError) as caught:
            run.extract(group)
        # It died in the midst of the chunk, and all that it had yet to serve is listed, and nothing else.
        assert batches() >= 4
        lost = [number for number in planned if number >= chunk]
        assert [(f.chunk, f.worker) for f in run.failures("extract")] == [(number, WORKER) for number in lost]
        assert f"{len(lost)} of {len(planned)} chunks failed" in str(caught.value)
        assert run.staged_chunks() == [number for number in planned if number < chunk]
        shaky.workers[WORKER].start()
        reads = count_reads(monkeypatch)
        run.extract(group)
        assert reads == lost
    else:
        run.extract(group)
        assert run.failures("extract") == []
    assert run.staged_chunks() == sorted(planned)
    shaky.workers[WORKER].start()
    for other in range(len(plan.groups)):
        run.extract(other)
    # What counts is the chunk as it is, once, and in no part twice.
    (staged,) = [c.checksum for m in steps.staged_runs(run.folder, plan) for c in m.chunks if c.chunk == chunk]
    assert staged == Checksum.of(big_rows(chunk))
    split = run.split()
    assert split.rows == sky.rows - sky.row_counts[chunk] + BIG_ROWS
    source = RunFiles.of(steps.staged_runs(run.folder, plan))
    pieces = Merger(run.folder, source, 2 * split.rows).pieces(KeyRange(0, (None, None), split.rows))
    found = Rows.joined([piece.rows for piece in pieces])
    small = found.chunk != chunk
    assert Checksum.of(found.take(~small)) == staged
    keys, chunks, subs = truth(sky.spec).index_rows(without_chunks=[chunk])
    assert_same((found.key[small], found.chunk[small], found.sub_chunk[small]), (keys, chunks, subs))


def big_rows(chunk: int) -> Rows:
    """The rows of the large chunk table."""
    seq = np.arange(1, BIG_ROWS + 1)
    return Rows(FIRST_KEY + seq, np.full(BIG_ROWS, chunk, np.int32), (seq % 9).astype(np.int64))
