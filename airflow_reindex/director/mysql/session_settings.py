"""The settings that a session pins, whatever the server's or the account's own values, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds after which the server closes an idle session: a day, since other sessions of the task may be working; but a
#: minute within a transaction, since a frozen host would hold its locks, and with them the claim.
IDLE_SECONDS, TRANSACTION_IDLE_SECONDS = 86_400, 60
#: Seconds that a statement waits for a table's metadata lock, and for a row's.
TABLE_LOCK_SECONDS, ROW_LOCK_SECONDS = 10, 50
#: Seconds that a server waits for a client that fetches no rows: a throttled task pauses between two reads.
READER_SECONDS = 600

_ALL_ROWS = 2**64 - 1


@dataclass(frozen=True)
class Setting:
    """
    A session variable.

    :param value: as SQL.
    :param reason: what goes wrong without it.
    :param only: the beginning of an executable comment that only servers with this variable run; empty for all.
    """

    name: str
    value: str
    reason: str
    only: str = ""


_MARIADB, _MARIADB_10_3, _MARIADB_10_5, _MYSQL = "/*M!", "/*M!100304", "/*M!100502", "/*!50708"

SETTINGS = (
    Setting("sql_mode", "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'", "values that do not fit would be changed"),
    Setting("sql_select_limit", str(_ALL_ROWS), "results would be cut without an error"),
    # Setting this one resets sql_big_selects.
    Setting("max_join_size", str(_ALL_ROWS), "large selects would be refused"),
    Setting("sql_big_selects", "1", "large selects would be refused"),
    Setting("sql_safe_updates", "0", "updates of the claim without a key would be refused"),
    Setting("sql_auto_is_null", "0", "IS NULL would find the row inserted last"),
    Setting("completion_type", "'NO_CHAIN'", "a commit would begin another transaction, or hang up"),
    Setting("time_zone", "'+00:00'", "times of tables would depend on who asks"),
    Setting("sql_notes", "1", "notes would not count as warnings"),
    Setting("max_error_count", "64", "a warning could not be quoted"),
    Setting("unique_checks", "1", "duplicate keys would not be found"),
    Setting("foreign_key_checks", "1", "a load would not be checked"),
    Setting("lock_wait_timeout", str(TABLE_LOCK_SECONDS), "a waiting RENAME or DROP blocks each new reader, for a day"),
    Setting("innodb_lock_wait_timeout", str(ROW_LOCK_SECONDS), "a second delivery of a task would wait too briefly"),
    Setting("wait_timeout", str(IDLE_SECONDS), "the server would hang up while others of the task work"),
    Setting("net_write_timeout", str(READER_SECONDS), "the server would hang up on a throttled reader"),
    Setting("net_read_timeout", str(TRANSACTION_IDLE_SECONDS), "a frozen sender of a file would hold its locks"),
    Setting("max_statement_time", "0", "statements would be ended in mid-work", _MARIADB),
    Setting("max_execution_time", "0", "selects would be ended in mid-work", _MYSQL),
    Setting("idle_transaction_timeout", "0", "the server would hang up on a throttled load", _MARIADB_10_3),
    Setting("idle_readonly_transaction_timeout", "0", "the server would hang up on a throttled reader", _MARIADB_10_3),
    Setting("idle_write_transaction_timeout", "0", "the server would hang up on a throttled load", _MARIADB_10_3),
    # Truly the default: the global value does not reach the session.
    Setting("system_versioning_asof", "DEFAULT", "versioned tables would be read as of another time", _MARIADB_10_3),
    Setting("sql_if_exists", "0", "a swap without its claim would pass: RENAME skips what is gone", _MARIADB_10_5),
)

#: Consistent snapshots, and transactions that may write.
TRANSACTIONS = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"


def pin_statement(charset: str) -> str:
    """
    One SET statement that pins all of :data:`SETTINGS`, for MySQL and MariaDB alike.

    :param charset: the client's character set: the server must send the one that the driver decodes.
    """
    common = ", ".join(f"{one.name} = {one.value}" for one in SETTINGS if not one.only)
    special = "".join(f" {one.only} , {one.name} = {one.value} */" for one in SETTINGS if one.only)
    return f"SET NAMES {charset}, SESSION {common}{special}"
