"""The ceiling: files that are sorted already, loaded by two connections, nothing else."""

from __future__ import annotations

import contextlib
import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.director.measure import Measured, measuring, run_sql
from benchmarks.director.qserv import DEFINITION
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.servers.cluster import INDEX_DATABASE, Sandbox

CONNECTIONS, SLICE_ROWS = 2, 250_000
TABLE = f"`{INDEX_DATABASE}`.`ceiling`"


def make_files(sandbox: Sandbox, spec: CatalogSpec) -> list[Path]:
    """
    Write a catalog's rows sorted by key, in slices.

    :param sandbox: the servers.
    :param spec: the catalog.
    :returns: the files, in key order.
    """
    keys, chunks, sub_chunks = truth(spec).index_rows()
    files = []
    for number, start in enumerate(range(0, len(keys), SLICE_ROWS)):
        where = slice(start, start + SLICE_ROWS)
        path = sandbox.czar.infile_dir / f"sorted-{number:04d}.tsv"
        table = pa.table(
            {name: np.asarray(c[where]) for name, c in zip("kcs", (keys, chunks, sub_chunks), strict=True)}
        )
        csv.write_csv(table, path, csv.WriteOptions(include_header=False, delimiter="\t"))
        os.chmod(path, 0o644)  # noqa: PTH101
        files.append(path)
    return files


def load(sandbox: Sandbox, spec: CatalogSpec, files: list[Path]) -> Measured:
    """
    Load sorted files, each connection its own contiguous part of the key space, one transaction a file.

    :param sandbox: the servers.
    :param spec: the catalog.
    :param files: from :func:`make_files`.
    :returns: what it took.
    """
    run_sql(sandbox, f"DROP TABLE IF EXISTS {TABLE}", f"CREATE TABLE {TABLE} {DEFINITION} STATS_AUTO_RECALC=0")

    def work(mine: list[Path]) -> None:
        with contextlib.closing(sandbox.czar.connect()) as connection, connection.cursor() as cursor:
            for path in mine:
                cursor.execute("START TRANSACTION")
                cursor.execute(f"LOAD DATA INFILE '{path}' INTO TABLE {TABLE} CHARACTER SET 'latin1'")
                cursor.execute("COMMIT")

    with measuring(sandbox, "ceiling", spec.rows, spec.chunks) as result:
        cuts = [len(files) * part // CONNECTIONS for part in range(CONNECTIONS + 1)]
        threads = [threading.Thread(target=work, args=(files[a:b],)) for a, b in pairwise(cuts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ((found,),) = run_sql(sandbox, f"SELECT COUNT(*) FROM {TABLE}")  # noqa: S608 - the benchmark's own names
    assert found == spec.rows
    result.index_bytes = (sandbox.czar.data_dir / INDEX_DATABASE / "ceiling.ibd").stat().st_size
    return result
