"""The columns of the chunk tables, and their rows as text for LOAD DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sandbox.catalog.layout import Layout, chance
from sandbox.catalog.spec import CatalogSpec
from sandbox.servers.identifiers import quote

CHUNK_COLUMN = "chunkId"
SUB_CHUNK_COLUMN = "subChunkId"
LATITUDE, LONGITUDE = "decl", "ra"

_FLUXES = tuple(f"{band}_psfFlux" for band in "ugrizy")
_ERRORS = tuple(f"{band}_psfFluxErr" for band in "gri")
_WRITE = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")

LOAD_OPTIONS = "CHARACTER SET latin1 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n'"


def sql_columns(spec: CatalogSpec) -> dict[str, str]:
    """The columns of a chunk table, in order; the key is not the first.

    :param spec: the catalog
    :returns: column name to SQL type
    :raises ValueError: if the key has the name of another column
    """
    before = {LONGITUDE: "DOUBLE NOT NULL", LATITUDE: "DOUBLE NOT NULL"}
    after = {
        "designation": "VARCHAR(24)",
        "raErr": "FLOAT",
        "declErr": "FLOAT",
        **dict.fromkeys(_FLUXES, "FLOAT"),
        **dict.fromkeys(_ERRORS, "FLOAT"),
        "extendedness": "DOUBLE",
        "flags": "INT UNSIGNED NOT NULL",
        "visits": "SMALLINT",
        "tract": "INT",
        "patch": "VARCHAR(8)",
        CHUNK_COLUMN: "INT NOT NULL",
        SUB_CHUNK_COLUMN: spec.sub_chunk_type,
    }
    if spec.key_column.lower() in {name.lower() for name in (*before, *after)}:
        raise ValueError(f"{spec.key_column} is the name of another column")
    return {**before, spec.key_column: spec.key_type, **after}


def create_statement(spec: CatalogSpec, table: str, *, nullable_key: bool, sub_chunk: bool) -> str:
    """The statement that creates a chunk table or an overlap table.

    :param spec: the catalog
    :param table: name of the table
    :param nullable_key: allow rows without a key, whatever the key's type says
    :param sub_chunk: with the sub-chunk column
    :returns: SQL
    """
    columns = sql_columns(spec)
    if nullable_key:
        columns[spec.key_column] = spec.key_type.upper().replace(" NOT NULL", "")
    if not sub_chunk:
        del columns[SUB_CHUNK_COLUMN]
    body = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return f"CREATE TABLE {quote(spec.database)}.{quote(table)} ({body}) ENGINE=MyISAM DEFAULT CHARSET=latin1"


def director_rows(layout: Layout) -> pa.Table:
    """All rows of the chunk tables.

    :param layout: the catalog's rows
    :returns: a table with the columns of :func:`sql_columns`, ordered by chunk
    """
    random = chance(layout.spec, "columns")
    count = layout.truth.keys.size
    brightness = random.standard_exponential(count, dtype=np.float32) * np.float32(1000)
    values: dict[str, object] = {
        LONGITUDE: layout.ra,
        LATITUDE: layout.decl,
        layout.spec.key_column: pa.array(layout.truth.keys, mask=layout.truth.is_null),
        "designation": _picked([f"Field {i:04d}" for i in range(1000)], count, random),
        "raErr": np.round(random.random(count, dtype=np.float32), 4),
        "declErr": np.round(random.random(count, dtype=np.float32), 4),
    }
    for name in (*_FLUXES, *_ERRORS):
        # Fewer digits make less text to write and to parse.
        values[name] = np.round(brightness * random.random(count, dtype=np.float32), 2)
    values["extendedness"] = random.integers(0, 2, count).astype(np.float64)
    values["flags"] = random.integers(0, 2**32, count, dtype=np.uint32)
    values["visits"] = random.integers(1, 1000, count, dtype=np.int16)
    values["tract"] = layout.truth.chunk_ids // 16
    values["patch"] = _picked([f"{i},{j}" for i in range(9) for j in range(9)], count, random)
    values[CHUNK_COLUMN] = layout.truth.chunk_ids
    values[SUB_CHUNK_COLUMN] = layout.truth.sub_chunk_ids
    return pa.table({name: values[name] for name in sql_columns(layout.spec)})


def overlap_rows(layout: Layout, rows: pa.Table) -> pa.Table:
    """All rows of the overlap tables.

    :param layout: the catalog's rows
    :param rows: those of :func:`director_rows`
    :returns: a table with the same columns, ordered by chunk
    """
    copies = rows.take(pa.array(layout.overlap.source))
    own = {
        layout.spec.key_column: layout.overlap.keys,
        CHUNK_COLUMN: np.repeat(layout.chunk_ids, np.diff(layout.overlap.starts)),
    }
    for name, values in own.items():
        copies = copies.set_column(copies.schema.get_field_index(name), name, pa.array(values))
    return copies.combine_chunks()


def _picked(words: list[str], count: int, random: np.random.Generator) -> pa.Array:
    return pa.array(words).take(pa.array(random.integers(0, len(words), count)))


def write_text(rows: pa.Table, path: Path, *, key_column: str, sub_chunk: bool) -> None:
    """Write rows in the form of :data:`LOAD_OPTIONS`.

    :param rows: the rows of one chunk
    :param path: the file
    :param key_column: name of the key
    :param sub_chunk: with the sub-chunk column
    """
    if not sub_chunk:
        rows = rows.drop_columns([SUB_CHUNK_COLUMN])
    position = rows.schema.get_field_index(key_column)
    if rows.column(position).null_count:
        # The writer would leave a missing value empty, which LOAD DATA takes for zero.
        text = pc.fill_null(pc.cast(rows.column(position), pa.string()), "\\N")
        rows = rows.set_column(position, key_column, text)
    pyarrow.csv.write_csv(rows, path, _WRITE)
