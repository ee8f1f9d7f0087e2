"""The integer columns of a director index: their SQL types, their limits, and the checksum over rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_reindex.core.failures import RequestError

_TYPE = re.compile(
    r"\s*(TINYINT|SMALLINT|MEDIUMINT|INT|INTEGER|BIGINT)\s*(\(\s*\d+\s*\))?\s*(UNSIGNED)?\s*(ZEROFILL)?"
    r"\s*(NOT\s+NULL|NULL)?\s*(DEFAULT\s+(?:NULL|'?-?\d+'?))?\s*(NOT\s+NULL|NULL)?\s*",
    re.IGNORECASE | re.ASCII,
)
_BITS = {"TINYINT": 8, "SMALLINT": 16, "MEDIUMINT": 24, "INT": 32, "INTEGER": 32, "BIGINT": 64}

#: The factors of a row's product: both below 2**31, so that it fits into a BIGINT; the left one is never 0, which would
#: hide the right one.
_LOW, _HIGH, _PRIME, _SPREAD, _WORD = 0x3FFFFFFF, 0x40000000, 2147483629, 65599, 0xFFFFFFFF
_ALL_BITS = 2**64 - 1
_BLOCK = 8192


@dataclass(frozen=True)
class IntegerType:
    """
    An integer column type.

    :param sql: the type as SQL, without its nullability.
    :param low: the smallest value.
    :param high: the largest value.
    """

    sql: str
    nullable: bool
    low: int
    high: int

    @classmethod
    @cache
    def parse(cls, text: str, column: str) -> IntegerType:
        """
        Read a type as Qserv's schema tables and MySQL's information_schema write it.

        :param text: such as ``BIGINT NOT NULL`` or ``int(10) unsigned``.
        :returns: the type; only what was recognised ever reaches a statement.
        :raises RequestError: when it is not an integer type.
        """
        # Collapse blanks first: the pattern allows them in many places, which would backtrack.
        match = _TYPE.fullmatch(" ".join(text.split()))
        if not match:
            raise RequestError(
                f"unsupported type '{text}' of column '{column}': a director index is built for integer columns "
                "(TINYINT to BIGINT, signed or unsigned)."
            )
        base, width, unsigned, zerofill, first, _, second = match.groups()
        bits = _BITS[base.upper()]
        is_unsigned = bool(unsigned or zerofill)
        sql = base.upper() + re.sub(r"\s", "", width or "") + (" UNSIGNED" if is_unsigned else "")
        sql += " ZEROFILL" if zerofill else ""
        nullable = not any(part and part.upper().startswith("NOT") for part in (first, second))
        return cls(sql, nullable, 0 if is_unsigned else -(1 << (bits - 1)), (1 << (bits - (not is_unsigned))) - 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest of int32, uint32, int64 and uint64 that holds all values."""
        for kind in ("int32", "uint32", "int64"):
            if np.iinfo(kind).min <= self.low and self.high <= np.iinfo(kind).max:
                return np.dtype(kind)
        return np.dtype("uint64")


@dataclass(frozen=True)
class Rows:
    """
    Rows of a director index, as columns of equal length n.

    :param key: the director key; shape (n,), int32 to uint64.
    :param chunk: the chunk number; shape (n,), int32.
    :param sub_chunk: the sub-chunk number; shape (n,), int32 to uint64.
    """

    key: npt.NDArray[Any]
    chunk: npt.NDArray[np.int32]
    sub_chunk: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.key)

    def take(self, where: Any) -> Rows:
        """The rows at a slice, a mask or positions."""
        return Rows(self.key[where], self.chunk[where], self.sub_chunk[where])

    @classmethod
    def joined(cls, pieces: Sequence[Rows]) -> Rows:
        """The rows of at least one piece, in the order given; all pieces are of the same types."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(
            *(np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("key", "chunk", "sub_chunk"))
        )

    def sorted(self) -> Rows:
        """A copy in key order; the order of equal keys is open."""
        return self.take(np.argsort(self.key))


@dataclass(frozen=True)
class Checksum:
    """
    An order-independent checksum of rows; numpy and the server compute the same.

    :param rows: the number of rows.
    :param keys: the XOR of all keys, as 64-bit words.
    :param row_hash: the XOR of all rows' products, each of which ties a key to its chunk and sub-chunk; the column
        ``mix`` of marker tables.
    :param total: the sum modulo 2**64 of each row's product XOR its key: in the XORs two equal rows cancel out.
    """

    rows: int = 0
    keys: int = 0
    row_hash: int = 0
    total: int = 0

    def __add__(self, other: Checksum) -> Checksum:
        return Checksum(
            self.rows + other.rows,
            self.keys ^ other.keys,
            self.row_hash ^ other.row_hash,
            (self.total + other.total) & _ALL_BITS,
        )

    @classmethod
    def of(cls, rows: Rows) -> Checksum:
        """The checksum of rows in memory."""
        # Blocks whose temporaries stay in the processor's cache: twenty times as fast as all rows at once.
        blocks = (rows.take(slice(start, start + _BLOCK)) for start in range(0, len(rows), _BLOCK))
        return reduce(add, map(cls._of_block, blocks), cls())

    @classmethod
    def _of_block(cls, rows: Rows) -> Checksum:
        key, sub_chunk = _words(rows.key), _words(rows.sub_chunk)
        left = (key ^ (key >> np.uint64(31))) & np.uint64(_LOW) | np.uint64(_HIGH)
        right = _words(rows.chunk) * np.uint64(_SPREAD)
        right += (sub_chunk ^ (sub_chunk >> np.uint64(32))) & np.uint64(_WORD)
        # numpy divides by a constant several times faster than it takes a remainder.
        right -= right // np.uint64(_PRIME) * np.uint64(_PRIME)
        left *= right
        row_hash = int(np.bitwise_xor.reduce(left))
        left ^= key
        return cls(len(rows), int(np.bitwise_xor.reduce(key)), row_hash, int(left.sum()))

    @staticmethod
    def select(key: str) -> str:
        """
        The same checksum as a select list, in the order of the fields.

        The server's SUM is an exact decimal number of any size; without rows it would be NULL.

        :param key: the key column, quoted.
        """
        left = f"(({key} ^ ({key} >> 31)) & {_LOW} | {_HIGH})"
        sub_chunk = f"((`subChunkId` ^ (`subChunkId` >> 32)) & {_WORD})"
        right = f"MOD(`chunkId` * {_SPREAD} + {sub_chunk}, {_PRIME})"
        product = f"({left} * {right})"
        return f"COUNT(*), BIT_XOR({key}), BIT_XOR({product}), COALESCE(SUM({product} ^ {key}), 0)"

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Checksum:
        """Read the answer to :meth:`select`."""
        rows, keys, row_hash, total = map(int, row)
        return cls(rows, keys, row_hash, total & _ALL_BITS)


def _words(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Values as 64-bit words, as the server's bit operators take them."""
    wide = values if values.dtype == np.uint64 else values.astype(np.int64)
    return wide.view(np.uint64)
