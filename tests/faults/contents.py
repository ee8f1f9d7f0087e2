"""Whole contents of indexes in these tests: what they should be, and a proof that the server computes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sandbox.catalog.catalog import CatalogSpec, generate, truth
from sandbox.servers.cluster import Sandbox
from tests.support.build import Build, Columns, assert_same, run_sql, tables_of

#: Rows, keys, and all three columns of each row.
_PROOF = "COUNT(*), COUNT(DISTINCT objectId), SUM(CRC32(CONCAT_WS('-', objectId, chunkId, subChunkId)))"


def note(text: str) -> None:
    """Say something that `pytest -s` shows, and pytest itself with a failure."""
    print(text)


class Changing:
    """
    A catalog whose rows get other sub-chunks from one build to the next, so that old and new index differ.

    :param sandbox: where it is made, each chunk on one worker.
    :param spec: the catalog.
    """

    def __init__(self, sandbox: Sandbox, spec: CatalogSpec) -> None:
        self.sandbox, self.spec = sandbox, spec
        self.placement = {chunk: workers[0] for chunk, workers in generate(sandbox, spec).placement.items()}
        self._truth = truth(spec).index_rows()
        self.live = f"qservMeta.`{spec.database}__{spec.table}`"

    @property
    def rows(self) -> Columns:
        """What an index of the present state holds."""
        return self._truth

    def change(self, chunks: Collection[int], sub_chunk: int) -> None:
        """Give all rows of some chunks another sub-chunk."""
        for worker, server in self.sandbox.workers.items():
            mine = [chunk for chunk in chunks if self.placement[chunk] == worker]
            if mine:
                table = f"`{self.spec.database}`.`{self.spec.table}_%d`"
                run_sql(server, *(f"UPDATE {table % chunk} SET subChunkId = {sub_chunk}" for chunk in mine))
        keys, chunk_ids, sub_chunks = self._truth
        self._truth = keys, chunk_ids, np.where(np.isin(chunk_ids, list(chunks)), sub_chunk, sub_chunks)

    def proof(self) -> tuple[int, ...]:
        """Sums over the whole live index; raises when it cannot be read."""
        return run_sql(self.sandbox.czar, f"SELECT {_PROOF} FROM {self.live}")[0]

    def check_table(self, name: str | None = None) -> None:
        """Let the server check the live index, or another table, page by page."""
        *_, (_, _, kind, text) = run_sql(self.sandbox.czar, f"CHECK TABLE {name or self.live} EXTENDED")
        assert (kind, text) == ("status", "OK")

    def check_files(self) -> None:
        """Each table has its file, and no file is without a table."""
        for database in ("qservMeta", "airflow_reindex"):
            files = (self.sandbox.czar.data_dir / database).glob("*.ibd")
            assert sorted(path.stem for path in files) == tables_of(self.sandbox, database)

    def check_alone(self) -> None:
        """The index database holds the index and nothing else of this catalog."""
        names = [name for name in tables_of(self.sandbox, "qservMeta") if self.spec.database in name or "#" in name]
        assert names == [f"{self.spec.database}__{self.spec.table}"]

    def check_done(self, run: Build) -> None:
        """Let a published build end: the index is what the catalog says, and nothing else is left."""
        run.finish()
        assert_same(run.index(), self.rows)
        assert run.working_tables() == []
        self.check_table()
        self.check_alone()
