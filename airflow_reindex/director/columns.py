"""The integer columns of a director index: their SQL types, their limits, and the checksum over their rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
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

#: Two primes below 2**31: a product of two remainders fits into a signed BIGINT.
_P, _Q, _SPREAD = 2147483647, 2147483629, 65599


@dataclass(frozen=True)
class IntegerType:
    """
    An integer column type.

    :param sql: the type as SQL, without its nullability.
    :param nullable: whether the schema lets it be NULL.
    :param low: the smallest value.
    :param high: the largest value.
    """

    sql: str
    nullable: bool
    low: int
    high: int

    @classmethod
    def parse(cls, text: str, column: str) -> IntegerType:
        """
        Read a type as Qserv's schema tables and MySQL's information_schema write it.

        :param text: such as ``BIGINT NOT NULL`` or ``int(10) unsigned``.
        :param column: the column's name, for the message.
        :returns: the type; only what was understood ever reaches a statement.
        :raises RequestError: it is not an integer type.
        """
        # Blanks first: the pattern has many places for them, which backtrack.
        match = _TYPE.fullmatch(" ".join(text.split()))
        if not match:
            raise RequestError(
                f"unsupported key type '{text}' of column '{column}': a director index is built for integer columns "
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
        """
        Some of the rows.

        :param where: a slice, a mask or positions.
        :returns: those rows.
        """
        return Rows(self.key[where], self.chunk[where], self.sub_chunk[where])

    def sorted(self) -> Rows:
        """
        The rows in key order.

        :returns: new columns; equal keys keep their order. The sort is fast where sorted pieces lie side by side.
        """
        return self.take(np.argsort(self.key, kind="stable"))


@dataclass(frozen=True)
class Checksum:
    """
    Proof of a set of rows, whatever their order; computed alike by numpy and by the server.

    :param rows: how many rows.
    :param keys: all keys, XORed as 64-bit words.
    :param mix: the sum, modulo 2**64, of a product that ties each key to its chunk and sub-chunk.
    """

    rows: int = 0
    keys: int = 0
    mix: int = 0

    def __add__(self, other: Checksum) -> Checksum:
        return Checksum(self.rows + other.rows, self.keys ^ other.keys, (self.mix + other.mix) % (1 << 64))

    @classmethod
    def of(cls, rows: Rows) -> Checksum:
        """
        The checksum of rows in memory.

        :param rows: the rows.
        :returns: their checksum.
        """
        if not len(rows):
            return cls()
        wide = _widen(rows.key)
        # fmod keeps the dividend's sign, as MOD does in SQL. The left factor is never 0: it would hide the right one.
        left = np.fmod(wide, wide.dtype.type(_P)).astype(np.int64)
        left += np.where(left < 0, np.int64(-_P), np.int64(_P))
        sub_chunk = _widen(rows.sub_chunk)
        rest = np.fmod(sub_chunk, sub_chunk.dtype.type(_P)).astype(np.int64)
        right = np.fmod(rows.chunk.astype(np.int64) * _SPREAD + rest, np.int64(_Q))
        keys = int(np.bitwise_xor.reduce(wide.view(np.uint64)))
        return cls(len(rows), keys, int((left * right).view(np.uint64).sum(dtype=np.uint64)))

    @staticmethod
    def select(key: str) -> str:
        """
        The same checksum as the select list of a statement.

        :param key: the key column, quoted.
        :returns: three expressions: rows, keys, mix (exact; the caller takes it modulo 2**64).
        """
        left = f"(CAST(MOD({key}, {_P}) AS SIGNED) + IF(MOD({key}, {_P}) < 0, -{_P}, {_P}))"
        right = f"MOD(`chunkId` * {_SPREAD} + CAST(MOD(`subChunkId`, {_P}) AS SIGNED), {_Q})"
        return f"COUNT(*), BIT_XOR({key}), COALESCE(SUM({left} * {right}), 0)"

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Checksum:
        """
        Read the answer to :meth:`select`.

        :param row: the three values.
        :returns: the checksum.
        """
        return cls(int(row[0]), int(row[1]), int(row[2]) % (1 << 64))


def _widen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values if values.dtype == np.uint64 else values.astype(np.int64)
