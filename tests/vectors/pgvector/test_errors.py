"""What is missing is told before anything is touched, and the classes of errors say whether a retry may help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import psycopg
import pytest

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from airflow_reindex.vectors.stores.pgvector.connections import SETTINGS, Connections
from airflow_reindex.vectors.stores.pgvector.errors import translate
from sandbox.servers.postgres import Postgres
from tests.vectors.pgvector.helpers import Admin, make_source


def store_of(postgres: Postgres, database: str, **parameters: Any) -> PgVectorStore:
    """A store with other parameters of the connection."""
    return PgVectorStore(connector(postgres.connection_uri(database), **parameters), label="postgres 'here'")


@pytest.fixture
def bare(postgres: Postgres) -> Iterator[str]:
    """A database without pgvector, in which the account may do nothing but connect."""
    with postgres.connect() as boss:
        boss.execute("CREATE DATABASE bare")
    yield "bare"
    postgres.drop_database("bare")


class TestConnecting:
    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"password": "wrong"}, "check login and password"),
            ({"password": ""}, "the connection has no password"),
            ({"dbname": "nowhere"}, "check database and login"),
            ({"user": "nobody"}, "check login and password"),
        ],
    )
    def test_refused(self, postgres: Postgres, database: str, parameters: dict[str, Any], words: str) -> None:
        with pytest.raises(RequestError, match=words) as caught:
            store_of(postgres, database, **parameters).check()
        assert "postgres 'here'" in str(caught.value)
        assert postgres.passwords["reindex"] not in str(caught.value)

    def test_away(self, postgres: Postgres, database: str) -> None:
        with pytest.raises(TransientError):
            store_of(postgres, database, host="/nonexistent").check()

    def test_too_many(self, postgres: Postgres, database: str) -> None:
        with postgres.connect() as boss:
            boss.execute("ALTER ROLE reindex CONNECTION LIMIT 0")
            try:
                with pytest.raises(TransientError, match="too many connections"):
                    store_of(postgres, database).check()
            finally:
                boss.execute("ALTER ROLE reindex CONNECTION LIMIT -1")


class TestCheck:
    def test_good(self, store: PgVectorStore, postgres: Postgres, database: str) -> None:
        store.check()
        with postgres.connect(database) as boss:
            boss.execute("DROP SCHEMA airflow_reindex CASCADE")
        store.check()
        store.prepare()
        store.check()

    def test_one_privilege_after_the_other(self, postgres: Postgres, bare: str) -> None:
        store = store_of(postgres, bare)
        with postgres.connect(bare) as boss:
            with pytest.raises(RequestError, match="CREATE EXTENSION vector"):
                store.check()
            boss.execute("CREATE EXTENSION vector")
            with pytest.raises(RequestError, match='GRANT CREATE ON DATABASE "bare" TO "reindex"'):
                store.check()
            boss.execute("CREATE SCHEMA airflow_reindex")
            with pytest.raises(RequestError, match="GRANT USAGE, CREATE ON SCHEMA airflow_reindex"):
                store.check()
            with pytest.raises(RequestError, match="permission denied"):
                store.prepare()
            boss.execute("GRANT USAGE, CREATE ON SCHEMA airflow_reindex TO reindex")
            with pytest.raises(RequestError, match='GRANT CREATE ON SCHEMA "public"'):
                store.check()
            boss.execute("GRANT CREATE ON SCHEMA public TO reindex")
            store.check()
            store.prepare()
        store.close()

    def test_nothing_is_changed(self, postgres: Postgres, bare: str) -> None:
        with postgres.connect(bare) as boss:
            boss.execute("GRANT CREATE ON DATABASE bare TO reindex")
            boss.execute("GRANT CREATE ON SCHEMA public TO reindex")
            boss.execute("CREATE EXTENSION vector")
            store_of(postgres, bare).check()
            assert boss.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'airflow_reindex'").fetchone() is None


def test_foreign_table_without_a_grant(store: PgVectorStore, postgres: Postgres, database: str) -> None:
    with postgres.connect(database) as boss:
        make_source(boss, "src", 3)
        source = store.open("src")
        with pytest.raises(RequestError, match="permission denied for table dbo_src"):
            source.count()
        boss.execute("GRANT SELECT ON dbo_src TO reindex")
        assert source.count() == 3
        boss.execute("DROP TABLE dbop_src, dbo_src")
        with pytest.raises(RequestError, match="dropped or renamed"):
            source.count()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.DeadlockDetected(), TransientError),
        (psycopg.errors.SerializationFailure(), TransientError),
        (psycopg.errors.LockNotAvailable(), TransientError),
        (psycopg.errors.AdminShutdown(), TransientError),
        (psycopg.errors.CannotConnectNow(), TransientError),
        (psycopg.errors.TooManyConnections(), TransientError),
        (psycopg.errors.QueryCanceled(), TransientError),
        (psycopg.errors.DiskFull(), TransientError),
        (psycopg.errors.ReadOnlySqlTransaction(), TransientError),
        (psycopg.errors.UniqueViolation(), DataError),
        (psycopg.errors.InvalidTextRepresentation(), DataError),
        (psycopg.errors.ProgramLimitExceeded(), DataError),
        (psycopg.errors.InternalError_(), DataError),
        (psycopg.errors.UndefinedTable(), RequestError),
        (psycopg.errors.InsufficientPrivilege(), RequestError),
        (psycopg.errors.InvalidPassword(), RequestError),
        (psycopg.errors.FeatureNotSupported(), RequestError),
        (psycopg.InterfaceError("the connection is closed"), TransientError),
        (psycopg.OperationalError("server closed the connection unexpectedly"), TransientError),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), DataError),
        (psycopg.ProgrammingError("odd"), RequestError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, psycopg.Error) else "",
)
def test_classes(error: psycopg.Error, expected: type[Exception]) -> None:
    assert type(translate(error, "here")) is expected


class TestSettings:
    HOSTILE: ClassVar = {
        "statement_timeout": "5s",
        "idle_session_timeout": "5s",
        "idle_in_transaction_session_timeout": "5s",
        "lock_timeout": "5s",
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
        "row_security": "on",
        "transform_null_equals": "on",
        "standard_conforming_strings": "off",
        '"DateStyle"': "German",
        '"TimeZone"': "Asia/Tokyo",
        "extra_float_digits": "-15",
        "synchronous_commit": "off",
    }

    @pytest.fixture
    def hostile(self, postgres: Postgres, database: str) -> Iterator[None]:
        """Settings of the role in this database under which a reindex would be wrong or end early."""
        with postgres.connect() as boss:
            for name, value in self.HOSTILE.items():
                boss.execute(f"ALTER ROLE reindex IN DATABASE \"{database}\" SET {name} = '{value}'")
        yield
        with postgres.connect() as boss:
            boss.execute(f'ALTER ROLE reindex IN DATABASE "{database}" RESET ALL')

    @pytest.mark.usefixtures("hostile")
    def test_each_one_is_pinned(self, postgres: Postgres, database: str) -> None:
        pinned = {name: value for name, (value, reason) in SETTINGS.items() if reason}
        connect = connector(postgres.connection_uri(database))
        own = Connections(connect, "postgres")
        known = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
        names = [*pinned, "synchronous_commit"]
        with own.use() as connection:
            assert (
                dict(connection.execute(known, (names,)).fetchall()).items()
                <= {
                    **pinned,
                    "synchronous_commit": "on",
                }.items()
            )
        own.close()
        assert len(pinned) == len(SETTINGS)

    def test_stronger_commits_stay(self, postgres: Postgres, database: str) -> None:
        connect = connector(postgres.connection_uri(database), options="-c synchronous_commit=remote_apply")
        with Connections(connect, "postgres").own() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("remote_apply",)

    def test_a_setting_that_this_account_may_not_change(self, postgres: Postgres, database: str) -> None:
        with postgres.connect() as boss:
            boss.execute(f'ALTER ROLE reindex IN DATABASE "{database}" SET zero_damaged_pages = on')
        try:
            with pytest.raises(RequestError, match="zero_damaged_pages"):
                store_of(postgres, database).check()
        finally:
            with postgres.connect() as boss:
                boss.execute(f'ALTER ROLE reindex IN DATABASE "{database}" RESET ALL')

    def test_rows_that_a_policy_hides(self, store: PgVectorStore, admin: Admin) -> None:
        make_source(admin, "src", 5)
        assert store.open("src").count() == 5
        admin.execute("ALTER TABLE dbo_src ENABLE ROW LEVEL SECURITY")
        admin.execute("ALTER TABLE dbo_src FORCE ROW LEVEL SECURITY")
        admin.execute("CREATE POLICY own ON dbo_src USING (object_id = 'o0000001')")
        with pytest.raises(RequestError, match="row-level security"):
            store.open("src").count()
