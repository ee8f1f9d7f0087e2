"""
Qserv's protocol: each chunk sorted on its worker, written to a file, loaded by one of two connections.

Source: Qserv's ``DirectorIndexJob``, ``WorkerDirectorIndexRequest`` and ``DirectorIndexJob``'s loaders: chunks in
ascending order from each worker, SELECT .. ORDER BY key INTO OUTFILE, LOAD DATA LOCAL INFILE into one table, one
transaction a chunk, SHOW WARNINGS after each.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from pathlib import Path

from benchmarks.director.measure import Measured, measuring, run_sql
from sandbox.servers.cluster import INDEX_DATABASE, Sandbox

LOADERS = 2
#: Requests that a worker serves at a time: Qserv's default.
EXTRACTORS = min(8, os.cpu_count() or 1)
DEFINITION = (
    "(`objectId` BIGINT NOT NULL, `chunkId` INT, `subChunkId` INT UNSIGNED NOT NULL, UNIQUE KEY (`objectId`)) "
    "ENGINE=InnoDB"
)
TABLE = f"`{INDEX_DATABASE}`.`qserv_way`"


def build(sandbox: Sandbox, database: str, rows: int) -> Measured:
    """
    Build an index as Qserv does.

    :param sandbox: the servers, with a catalog.
    :param database: the catalog.
    :param rows: its rows.
    :returns: what it took; ``steps`` has the time of each fifth of the chunks.
    """
    with measuring(sandbox, "qserv", rows, 0) as result:
        placed = run_sql(
            sandbox,
            f"SELECT chunk, worker FROM qservReplica.replica WHERE `database` = '{database}' "  # noqa: S608 - the benchmark's own names
            "AND chunk <> 1234567890 ORDER BY chunk",
        )
        run_sql(sandbox, f"DROP TABLE IF EXISTS {TABLE}", f"CREATE TABLE {TABLE} {DEFINITION}")
        result.chunks = len(placed)
        done = _run(sandbox, database, [(int(chunk), str(worker)) for chunk, worker in placed])
    began = result.seconds
    marks = [done[len(done) * fifth // 5 - 1] for fifth in range(1, 6)]
    result.steps = {f"fifth {i + 1}": mark - (marks[i - 1] if i else 0) for i, mark in enumerate(marks)}
    assert began >= marks[-1]
    result.index_bytes = (sandbox.czar.data_dir / INDEX_DATABASE / "qserv_way.ibd").stat().st_size
    return result


def _run(sandbox: Sandbox, database: str, placed: list[tuple[int, str]]) -> list[float]:
    """Extract and load; the time at which each chunk was in the index."""
    todo: dict[str, queue.SimpleQueue[int | None]] = {name: queue.SimpleQueue() for name in sandbox.workers}
    for chunk, worker in placed:
        todo[worker].put(chunk)
    ready: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
    began, done = time.perf_counter(), list[float]()
    extractors = [
        threading.Thread(target=_extract, args=(sandbox, worker, database, chunks, ready))
        for worker, chunks in todo.items()
        for _ in range(EXTRACTORS)
    ]
    loaders = [threading.Thread(target=_load, args=(sandbox, ready, done, began)) for _ in range(LOADERS)]
    for thread in (*extractors, *loaders):
        thread.start()
    for chunks in todo.values():
        for _ in range(EXTRACTORS):
            chunks.put(None)
    for thread in extractors:
        thread.join()
    for _ in loaders:
        ready.put(None)
    for thread in loaders:
        thread.join()
    assert len(done) == len(placed), "a chunk failed"
    return done


def _extract(
    sandbox: Sandbox,
    worker: str,
    database: str,
    chunks: queue.SimpleQueue[int | None],
    ready: queue.SimpleQueue[Path | None],
) -> None:
    server = sandbox.workers[worker]
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        while (chunk := chunks.get()) is not None:
            path = server.infile_dir / f"{database}-{chunk}"
            cursor.execute(
                f"SELECT `objectId`, {chunk}, `subChunkId` FROM `{database}`.`Object_{chunk}` ORDER BY `objectId` "  # noqa: S608 - the benchmark's own names
                f"INTO OUTFILE '{path}'"
            )
            ready.put(path)


def _load(sandbox: Sandbox, ready: queue.SimpleQueue[Path | None], done: list[float], began: float) -> None:
    with contextlib.closing(sandbox.czar.connect(local_infile=True)) as connection, connection.cursor() as cursor:
        while (path := ready.get()) is not None:
            cursor.execute("START TRANSACTION")
            cursor.execute(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {TABLE} CHARACTER SET 'latin1'")
            cursor.execute("SHOW WARNINGS")
            assert not cursor.fetchall()
            cursor.execute("COMMIT")
            path.unlink()
            done.append(time.perf_counter() - began)
