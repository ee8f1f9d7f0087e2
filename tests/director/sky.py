"""A catalog whose chunk tables change between builds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest

from airflow_reindex.core.staging import Folder
from sandbox.catalog.catalog import CatalogSummary
from sandbox.servers.cluster import Sandbox
from tests.support.build import Columns, run_sql


@contextmanager
def killed_after(moves: int) -> Iterator[None]:
    """What is done in it dies when it has moved so many files."""
    left, real = moves, Folder.move_from

    def move_from(self: Folder, other: Folder, name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(self, other, name)

    with mock.patch.object(Folder, "move_from", move_from), pytest.raises(KeyboardInterrupt):
        yield


class Sky:
    """
    A catalog whose chunk tables change.

    :param sandbox: the servers.
    :param made: the catalog.
    """

    def __init__(self, sandbox: Sandbox, made: CatalogSummary) -> None:
        self.sandbox, self.made, self.minutes = sandbox, made, 50
        self.chunks = sorted(chunk for chunk, rows in made.row_counts.items() if rows)

    def change(self, chunks: Iterable[int]) -> None:
        """Each key of these chunks becomes another one, as of some minutes ago."""
        self.minutes -= 5
        then = time.time() - 60 * self.minutes
        for chunk in chunks:
            server = self.sandbox.workers[self.made.placement[chunk][0]]
            table = f"`{self.made.spec.database}`.`Object_{chunk}`"
            run_sql(server, f"UPDATE {table} SET objectId = objectId ^ (1 << {self.minutes})", f"FLUSH TABLES {table}")
            os.utime(server.data_dir / self.made.spec.database / f"Object_{chunk}.MYD", (then, then))

    def rows(self) -> Columns:
        """The rows of all chunk tables as they are now, by key."""
        found = [
            row
            for chunk, (worker, *_) in self.made.placement.items()
            for row in run_sql(
                self.sandbox.workers[worker],
                f"SELECT objectId, {chunk}, subChunkId FROM `{self.made.spec.database}`.`Object_{chunk}`",
            )
        ]
        columns = np.array(sorted(found), dtype=np.int64)
        return columns[:, 0], columns[:, 1], columns[:, 2]

    def everything(self) -> list[int]:
        """All chunks of a plan, with the dummy chunk."""
        return sorted({*self.made.placement, 1234567890})
