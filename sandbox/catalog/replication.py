"""The tables of Qserv's replication system that say which chunks there are and which workers hold them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from MySQLdb.connections import Connection

from sandbox.catalog.columns import LATITUDE, LONGITUDE, sql_columns
from sandbox.catalog.layout import SPHERE
from sandbox.catalog.spec import CatalogSpec

DATABASE = "qservReplica"
FAMILY = "sandbox"
OVERLAP_DEGREES = 0.01667
FILTERS_TABLE = "Filters"

_NAME = "VARCHAR(255) NOT NULL"
_BOOL = "BOOLEAN NOT NULL"
_TIME = "BIGINT UNSIGNED NOT NULL DEFAULT 0"
_TABLES: Mapping[str, str] = {
    "config_worker": f"`name` {_NAME} PRIMARY KEY, `is_enabled` {_BOOL}, `is_read_only` {_BOOL}",
    "config_database_family": f"`name` {_NAME} PRIMARY KEY, `min_replication_level` INT UNSIGNED NOT NULL, "
    "`num_stripes` INT UNSIGNED NOT NULL, `num_sub_stripes` INT UNSIGNED NOT NULL, `overlap` DOUBLE NOT NULL",
    "config_database": f"`database` {_NAME} PRIMARY KEY, `family_name` {_NAME}, `is_published` {_BOOL}, "
    f"`create_time` {_TIME}, `publish_time` {_TIME}",
    "config_database_table": f"`database` {_NAME}, `table` {_NAME}, `is_published` {_BOOL}, "
    f"`create_time` {_TIME}, `publish_time` {_TIME}, `is_partitioned` {_BOOL}, "
    "`director_table` VARCHAR(255) NOT NULL DEFAULT '', `director_key` VARCHAR(255) NOT NULL DEFAULT '', "
    "`director_table2` VARCHAR(255) NOT NULL DEFAULT '', `director_key2` VARCHAR(255) NOT NULL DEFAULT '', "
    "`flag` VARCHAR(255) NOT NULL DEFAULT '', `ang_sep` DOUBLE NOT NULL DEFAULT 0, "
    "`unique_primary_key` BOOLEAN NOT NULL DEFAULT TRUE, "
    "`latitude_key` VARCHAR(255) NOT NULL DEFAULT '', `longitude_key` VARCHAR(255) NOT NULL DEFAULT '', "
    "PRIMARY KEY (`database`, `table`)",
    "config_database_table_schema": f"`database` {_NAME}, `table` {_NAME}, `col_position` INT NOT NULL, "
    f"`col_name` {_NAME}, `col_type` {_NAME}, UNIQUE KEY (`database`, `table`, `col_position`), "
    "UNIQUE KEY (`database`, `table`, `col_name`)",
    "replica": f"`id` INT NOT NULL AUTO_INCREMENT PRIMARY KEY, `worker` {_NAME}, `database` {_NAME}, "
    f"`chunk` INT UNSIGNED NOT NULL, `verify_time` {_TIME}, UNIQUE KEY (`worker`, `database`, `chunk`)",
}
_PER_DATABASE = ("replica", "config_database_table_schema", "config_database_table", "config_database")


def create_tables(connection: Connection, workers: Iterable[str]) -> None:
    """Create the tables as far as they do not exist, and enter the workers.

    :param connection: a connection to the czar as root
    :param workers: their names
    """
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{DATABASE}`")
        cursor.execute(f"USE `{DATABASE}`")
        for table, body in _TABLES.items():
            # Names are compared byte by byte, as the file names of tables are.
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS `{table}` ({body}) ENGINE=InnoDB DEFAULT CHARSET=latin1 COLLATE=latin1_bin"
            )
        cursor.executemany("INSERT IGNORE INTO config_worker VALUES (%s, 1, 0)", [(w,) for w in workers])


def forget(connection: Connection, database: str) -> None:
    """Remove a catalog from the tables.

    :param connection: a connection to the czar as root
    :param database: the catalog's database
    """
    with connection.cursor() as cursor:
        cursor.execute(f"USE `{DATABASE}`")
        for table in _PER_DATABASE:
            cursor.execute(f"DELETE FROM `{table}` WHERE `database` = %s", (database,))  # noqa: S608 - names of this module


def register(connection: Connection, spec: CatalogSpec, placement: Mapping[int, Sequence[str]]) -> None:
    """Enter a catalog, in place of an older one of the same name.

    :param connection: a connection to the czar as root
    :param spec: the catalog
    :param placement: chunk to its workers, with the dummy chunk
    """
    forget(connection, spec.database)
    now = int(time.time() * 1000)
    published = now if spec.published else 0
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT IGNORE INTO config_database_family VALUES (%s, %s, %s, %s, %s)",
            (FAMILY, spec.replicas, SPHERE.stripes, SPHERE.sub_stripes, OVERLAP_DEGREES),
        )
        cursor.execute(
            "INSERT INTO config_database VALUES (%s, %s, %s, %s, %s)",
            (spec.database, FAMILY, spec.published, now, published),
        )
        cursor.executemany(
            "INSERT INTO config_database_table (`database`, `table`, is_published, create_time, "
            "publish_time, is_partitioned, director_table, director_key, unique_primary_key, latitude_key, "
            "longitude_key) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [(spec.database, table, spec.published, now, published, *rest) for table, *rest in _table_rows(spec)],
        )
        cursor.executemany(
            "INSERT INTO config_database_table_schema VALUES (%s, %s, %s, %s, %s)",
            [
                (spec.database, table, position, name, kind)
                for table, columns in _schemas(spec).items()
                for position, (name, kind) in enumerate(columns.items())
            ],
        )
        cursor.executemany(
            "INSERT INTO replica (worker, `database`, chunk, verify_time) VALUES (%s, %s, %s, %s)",
            [(worker, spec.database, chunk, now) for chunk, workers in placement.items() for worker in workers],
        )


def child_table(spec: CatalogSpec) -> str:
    """The table that is registered as a child of the director table; it has no chunk tables.

    :param spec: the catalog
    :returns: its name
    """
    return "Source" if spec.table != "Source" else "ForcedSource"


def _table_rows(spec: CatalogSpec) -> list[tuple[object, ...]]:
    """Table, partitioned, its director, director key, unique, latitude, longitude."""
    return [
        (spec.table, True, "", spec.key_column, spec.unique, LATITUDE, LONGITUDE),
        (child_table(spec), True, spec.table, spec.key_column, False, LATITUDE, LONGITUDE),
        (FILTERS_TABLE, False, "", "", False, "", ""),
    ]


def _schemas(spec: CatalogSpec) -> dict[str, dict[str, str]]:
    return {
        spec.table: sql_columns(spec),
        child_table(spec): {"sourceId": "BIGINT NOT NULL", **sql_columns(spec)},
        FILTERS_TABLE: {"filterId": "INT NOT NULL", "filterName": "VARCHAR(16)"},
    }
