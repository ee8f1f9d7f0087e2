"""The columns of an index: their SQL types, and the checksum that numpy and the server compute alike."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.failures import RequestError
from airflow_reindex.director.mysql.types import Checksum, IntegerType, Rows
from tests.support.samples import Row, examples, rows_of, tuples

#: The numbers in the statement: what is kept of a key and set in it, of a sub-chunk, the chunk's spread, the divisor.
KEEP, SET, WORD, SPREAD, PRIME = (1 << 30) - 1, 1 << 30, (1 << 32) - 1, 65599, 2147483629

S64, U64 = (-(1 << 63), (1 << 63) - 1), (0, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("text", "sql", "nullable", "low", "high", "dtype"),
    [
        ("BIGINT", "BIGINT", True, *S64, "int64"),
        ("BIGINT NOT NULL", "BIGINT", False, *S64, "int64"),
        ("bigint(20)", "BIGINT(20)", True, *S64, "int64"),
        ("bigint(20) unsigned", "BIGINT(20) UNSIGNED", True, *U64, "uint64"),
        ("BigInt( 20 )Unsigned not  null", "BIGINT(20) UNSIGNED", False, *U64, "uint64"),
        ("BIGINT UNSIGNED ZEROFILL NULL", "BIGINT UNSIGNED ZEROFILL", True, *U64, "uint64"),
        ("INT ZEROFILL", "INT UNSIGNED ZEROFILL", True, 0, (1 << 32) - 1, "uint32"),
        ("int", "INT", True, -(1 << 31), (1 << 31) - 1, "int32"),
        ("INTEGER NULL", "INTEGER", True, -(1 << 31), (1 << 31) - 1, "int32"),
        ("INTEGER DEFAULT NULL", "INTEGER", True, -(1 << 31), (1 << 31) - 1, "int32"),
        ("INT DEFAULT 0 NOT NULL", "INT", False, -(1 << 31), (1 << 31) - 1, "int32"),
        ("INT NOT NULL DEFAULT '-1'", "INT", False, -(1 << 31), (1 << 31) - 1, "int32"),
        ("int(10) unsigned NOT NULL DEFAULT '0'", "INT(10) UNSIGNED", False, 0, (1 << 32) - 1, "uint32"),
        ("MEDIUMINT", "MEDIUMINT", True, -(1 << 23), (1 << 23) - 1, "int32"),
        ("mediumint unsigned", "MEDIUMINT UNSIGNED", True, 0, (1 << 24) - 1, "int32"),
        ("SMALLINT", "SMALLINT", True, -(1 << 15), (1 << 15) - 1, "int32"),
        ("smallint(5) unsigned", "SMALLINT(5) UNSIGNED", True, 0, (1 << 16) - 1, "int32"),
        ("TINYINT(1)", "TINYINT(1)", True, -128, 127, "int32"),
        ("\ttinyint\nunsigned ", "TINYINT UNSIGNED", True, 0, 255, "int32"),
    ],
)
def test_integer_types(text: str, sql: str, nullable: bool, low: int, high: int, dtype: str) -> None:
    kind = IntegerType.parse(text, "objectId")
    assert (kind.sql, kind.nullable, kind.low, kind.high) == (sql, nullable, low, high)
    assert kind.dtype == np.dtype(dtype)
    assert np.iinfo(kind.dtype).min <= low
    assert high <= np.iinfo(kind.dtype).max
    again = IntegerType.parse(kind.sql, "objectId")
    assert (again.sql, again.low, again.high) == (sql, low, high)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "VARCHAR(20)",
        "DECIMAL(10,0)",
        "FLOAT",
        "DOUBLE",
        "BIT(8)",
        "BINARY(8)",
        "DATE",
        "INT; DROP TABLE x",
        "INT COMMENT 'x'",
        "INT /* x */",
        "INT -- x",
        "INT # x",
        "INT(a)",
        "INT(-1)",
        "INT()",
        "INT(10,2)",
        "INT AUTO_INCREMENT",
        "INT DEFAULT (1+1)",
        "INT DEFAULT 'a'",
        "INT DEFAULT 1.5",
        "INT CHARACTER SET utf8",
        "BIGINTEGER",
        "POINT",
        "INT,",
        "INT NOT",
        "INT\x00",
        "INT`",
        "\u0130NT",
        "INT(\u0661\u0660)",
        "TINYINT DEFAULT \u0661",
    ],
)
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"unsupported type .* of column 'objectId'"):
        IntegerType.parse(text, "objectId")


@given(st.lists(st.sampled_from(["INT", "bigint", "(10)", "UNSIGNED", "ZEROFILL", "NOT NULL", "NULL", ";", "'", "x"])))
@example(["INT", "NULL", "NOT NULL"])
@examples(200)
def test_only_what_was_understood_reaches_a_statement(words: list[str]) -> None:
    try:
        kind = IntegerType.parse(" ".join(words), "objectId")
    except RequestError:
        return
    assert re.fullmatch(r"(INT|BIGINT)(\(10\))?( UNSIGNED)?( ZEROFILL)?", kind.sql)


def test_blanks_in_a_type_do_not_hang() -> None:
    def ring(*_: object) -> None:
        raise TimeoutError("the expression takes far too long")

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(RequestError, match="unsupported type"):
            IntegerType.parse("INT" + 250 * " " + "x", "objectId")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def product(row: Row) -> int:
    """The product of the statement, with the server's rule that bit operators take 64-bit words."""
    key, sub_chunk = row[0] % (1 << 64), row[2] % (1 << 64)
    right = row[1] * SPREAD + ((sub_chunk ^ (sub_chunk >> 32)) & WORD)
    return ((key ^ (key >> 31)) & KEEP | SET) * (right % PRIME)


def reference(rows: Sequence[Row]) -> Checksum:
    """What the server answers to Checksum.select, computed with Python's integers."""
    keys = reduce(lambda one, other: one ^ other, (key % (1 << 64) for key, _, _ in rows), 0)
    products = [product(row) for row in rows]
    total = sum(one ^ key % (1 << 64) for one, (key, _, _) in zip(products, rows, strict=True))
    return Checksum.from_row((len(rows), keys, reduce(lambda one, other: one ^ other, products, 0), total))


def test_the_statement_has_these_numbers() -> None:
    numbers = [int(number) for number in re.findall(r"\d{5,}", Checksum.select("`k`"))]
    assert numbers == 2 * [KEEP, SET, SPREAD, WORD, PRIME]


def around(*values: int) -> st.SearchStrategy[int]:
    """Values and their neighbours."""
    return st.sampled_from([value + shift for value in values for shift in (-1, 0, 1)])


CHUNKS = st.one_of(st.integers(0, (1 << 31) - 1), st.sampled_from([0, 1, 1234567890, (1 << 31) - 1]))
KEYS = {
    "int32": st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.sampled_from([-(1 << 31), (1 << 31) - 1, 0, -1])),
    "uint32": st.one_of(st.integers(0, (1 << 32) - 1), around(1 << 31, SET)),
    "int64": st.one_of(st.integers(*S64), around(0, SET, -SET, PRIME, 1 << 32), st.sampled_from(S64)),
    "uint64": st.one_of(st.integers(*U64), around(1 << 63, SET, 1 << 32), st.sampled_from(U64)),
}
SUBS = {
    "int32": st.integers(0, (1 << 31) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "int64": st.integers(0, (1 << 63) - 1),
}


@st.composite
def some_rows(draw: st.DrawFn, least: int = 0, most: int = 12) -> Rows:
    """Rows of any types, with sub-chunks that are not negative."""
    key, sub = draw(st.sampled_from(sorted(KEYS))), draw(st.sampled_from(sorted(SUBS)))
    rows = draw(st.lists(st.tuples(KEYS[key], CHUNKS, SUBS[sub]), min_size=least, max_size=most))
    return rows_of([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], f"{key} {sub}")


@given(some_rows())
@examples(300)
def test_checksum_is_what_the_statement_computes(rows: Rows) -> None:
    assert Checksum.of(rows) == reference(tuples(rows))


@pytest.mark.parametrize(
    ("chunk", "sub_chunk", "kinds"),
    [
        *((chunk, sub, "int64 int32") for chunk, sub in ((0, -1), (0, -1 << 31), (7, -1 << 31), (32_000, -2147483646))),
        *((1, sub, "int64 uint64") for sub in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1)),
    ],
)
def test_checksum_of_negative_and_of_huge_sub_chunks(chunk: int, sub_chunk: int, kinds: str) -> None:
    rows = rows_of([5, -5], [chunk, chunk], [sub_chunk, 3], kinds)
    assert Checksum.of(rows) == reference(tuples(rows))


@given(rows=some_rows(), seed=st.integers(0, 1000))
@examples(60)
def test_checksum_does_not_depend_on_the_order(rows: Rows, seed: int) -> None:
    shuffled = rows.take(np.random.default_rng(seed).permutation(len(rows)))
    assert Checksum.of(shuffled) == Checksum.of(rows)
    assert Checksum.of(rows.sorted()) == Checksum.of(rows)


@given(rows=some_rows(), cut=st.integers(0, 12))
@examples(60)
def test_checksums_add_up(rows: Rows, cut: int) -> None:
    one, other = rows.take(slice(0, cut)), rows.take(slice(cut, None))
    assert Checksum.of(one) + Checksum.of(other) == Checksum.of(rows)
    assert Checksum() + Checksum.of(rows) == Checksum.of(rows)


def test_many_extreme_rows_do_not_overflow() -> None:
    rows = rows_of([(1 << 31) - 2, -(1 << 31) + 2] * 5_000 + [(1 << 31) - 2] * 5_000, [7] * 15_000, [1] * 15_000)
    assert Checksum.of(rows) == reference(tuples(rows))


def test_no_rows() -> None:
    assert Checksum.of(rows_of([], [], [])) == Checksum() == reference([])


def test_the_answer_of_the_server_may_be_decimal() -> None:
    from decimal import Decimal

    assert Checksum.from_row((2, 7, Decimal(9), Decimal(1 << 64) + 3)) == Checksum(2, 7, 9, 3)
    assert Checksum.from_row((0, 0, Decimal(0), Decimal(0))) == Checksum()


#: Keys as catalogs have them: dense, spread, packed from several fields.
REAL_KEYS = st.one_of(st.integers(1, 10**6), st.integers(1, (1 << 63) - 1), st.integers(1, 1000).map(lambda n: n << 40))


@st.composite
def catalog_rows(draw: st.DrawFn) -> list[Row]:
    """Rows with unique keys, chunks and sub-chunks as Qserv makes them."""
    keys = draw(st.lists(REAL_KEYS, min_size=2, max_size=10, unique_by=lambda key: (key ^ (key >> 31)) & KEEP))
    return [(key, draw(st.integers(1, 200_000)), draw(st.integers(0, 5_000))) for key in keys]


def checksum(rows: Sequence[Row]) -> Checksum:
    """The checksum of plain tuples."""
    columns: list[Any] = list(zip(*rows, strict=True))
    return Checksum.of(rows_of(*columns))


@given(rows=catalog_rows(), bit=st.integers(0, 62))
@examples(80)
def test_a_changed_key_is_noticed(rows: list[Row], bit: int) -> None:
    (key, chunk, sub), *others = rows
    assert checksum([(key ^ (1 << bit), chunk, sub), *others]) != checksum(rows)


@given(catalog_rows())
@examples(80)
def test_swapped_chunks_are_noticed(rows: list[Row]) -> None:
    (key, chunk, sub), (other_key, other_chunk, other_sub), *others = rows
    swapped = [(key, other_chunk, sub), (other_key, chunk, other_sub), *others]
    assert (checksum(swapped) != checksum(rows)) == (chunk != other_chunk)


@given(catalog_rows())
@examples(80)
def test_lost_and_doubled_rows_are_noticed(rows: list[Row]) -> None:
    whole = checksum(rows)
    assert checksum(rows[1:]) != whole
    assert checksum([rows[0], *rows]) != whole
    assert checksum([rows[0], rows[0], *rows[2:]]) != whole, "one lost, another doubled"


@given(rows=catalog_rows(), bit=st.integers(0, 62))
@examples(80)
def test_equal_rows_that_change_in_pairs_are_noticed(rows: list[Row], bit: int) -> None:
    (key, chunk, sub), *others = rows
    whole = checksum([(key, chunk, sub)] * 2 + others)
    assert checksum([(key ^ (1 << bit), chunk, sub)] * 2 + others) != whole
    assert checksum([(key, chunk, sub + 1)] * 2 + others) != whole
    assert checksum([others[0]] * 2 + others) != whole


@pytest.mark.parametrize("key", [1, -1, 5, (1 << 63) - 1, -(1 << 63), 0, SET, -SET, 3 * SET])
@pytest.mark.parametrize("changed", [(101, 7), (100, 8)])
def test_a_changed_chunk_or_sub_chunk_is_noticed(key: int, changed: tuple[int, int]) -> None:
    assert checksum([(key, 100, 7), (12, 3, 4)]) != checksum([(key, *changed), (12, 3, 4)])


@given(st.lists(st.integers(-3, 3), max_size=30))
@examples(50)
def test_sorting_keeps_rows_together(keys: list[int]) -> None:
    rows = rows_of(keys, range(len(keys)), range(len(keys)))
    found = tuples(rows.sorted())
    assert [row[0] for row in found] == sorted(keys)
    assert sorted(found) == sorted(tuples(rows))
