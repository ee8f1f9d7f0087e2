"""What a catalog should be like."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandbox.servers.identifiers import quote

_TYPE = re.compile(r"[A-Za-z]+( ?\(\d+\))?( [A-Za-z]+)*")
_COUNTS = ("rows", "missing", "duplicates_within", "duplicates_across", "null_keys", "no_sub_chunk")


@dataclass(frozen=True)
class CatalogSpec:
    """A made-up catalog with one director table; equal specs give equal catalogs.

    :param database: name of its database on the workers
    :param table: name of the director table
    :param rows: rows of all chunk tables together, without the overlap tables
    :param chunks: number of chunks, without the dummy chunk
    :param seed: source of chance
    :param replicas: copies of each chunk, on different workers
    :param key_column: name of the director key
    :param key_type: its SQL type, which has to hold 63-bit integers
    :param sub_chunk_type: SQL type of the column ``subChunkId``
    :param empty_chunks: how many of the chunks have an empty table: a fraction if below 1, else a count
    :param unique: what the configuration says about the key; the rows do not depend on it
    :param published: whether database and tables count as published
    :param missing: fault: so many chunks lack their table on one of their workers
    :param missing_everywhere: the missing tables are missing on all workers of the chunk
    :param duplicates_within: fault: so many rows have the key of another row of the same chunk
    :param duplicates_across: fault: so many rows have the key of a row of another chunk
    :param null_keys: fault: so many rows have no key
    :param no_sub_chunk: fault: so many chunk tables lack the column ``subChunkId``
    """

    database: str = "sky"
    table: str = "Object"
    rows: int = 1_000_000
    chunks: int = 1000
    seed: int = 1
    replicas: int = 1
    key_column: str = "objectId"
    key_type: str = "BIGINT NOT NULL"
    sub_chunk_type: str = "INT UNSIGNED NOT NULL"
    empty_chunks: float = 0.05
    unique: bool = True
    published: bool = True
    missing: int = 0
    missing_everywhere: bool = False
    duplicates_within: int = 0
    duplicates_across: int = 0
    null_keys: int = 0
    no_sub_chunk: int = 0

    def __post_init__(self) -> None:
        for name in (self.database, self.table, self.key_column):
            quote(name)
        for kind in (self.key_type, self.sub_chunk_type):
            if not _TYPE.fullmatch(kind):
                raise ValueError(f"not a plain SQL type: {kind!r}")
        for field in _COUNTS:
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must not be negative")
        if self.chunks < 1 or self.replicas < 1:
            raise ValueError("a catalog needs at least one chunk and one replica")
        if self.empty_count >= self.chunks and self.rows > 0:
            raise ValueError("with all chunks empty there is no place for rows")

    @property
    def empty_count(self) -> int:
        """Number of chunks whose table is empty."""
        if self.empty_chunks < 0:
            raise ValueError("empty_chunks must not be negative")
        return round(self.empty_chunks * self.chunks) if self.empty_chunks < 1 else int(self.empty_chunks)
