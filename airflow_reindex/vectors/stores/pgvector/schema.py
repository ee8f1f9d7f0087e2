"""Names and definitions of tables: EmbeddingStudio's two per collection, and this package's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.model.collection import MAX_ID, CollectionInfo, Metric

#: PostgreSQL silently truncates longer names.
MAX_NAME = 63
#: The limit of pgvector's HNSW index for the type ``vector``.
MAX_DIMENSIONS = 2000

SCHEMA, PUBLIC = "airflow_reindex", "public"
COLLECTIONS = sql.Identifier(SCHEMA, "collections")
CLAIMS = sql.Identifier(SCHEMA, "claims")
ALIASES = sql.Identifier(SCHEMA, "aliases")

OPERATORS: dict[Metric, str] = {"cosine": "<=>", "euclid": "<->", "dot": "<#>"}
OPCLASSES: dict[Metric, str] = {"cosine": "vector_cosine_ops", "euclid": "vector_l2_ops", "dot": "vector_ip_ops"}

#: Advisory locks of two steps that must not run concurrently with themselves.
LOCK_PREPARE, LOCK_CLAIMS = (0x5EED_1D, 1), (0x5EED_1D, 2)
#: Advisory lock for index builds of one collection; the second number comes from its id.
LOCK_BUILD = 0x5EED_1E

#: An id means the table that a connection's search path finds: two tenants may use the same id in two schemas.
OWN_TABLES = (
    sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (schema_name text NOT NULL, collection_id text NOT NULL, "
        "embedding_model_id text NOT NULL, dimensions integer NOT NULL, metric text NOT NULL, m integer NOT NULL, "
        "ef_construction integer NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
        "PRIMARY KEY (schema_name, collection_id))"
    ).format(COLLECTIONS),
    sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (schema_name text NOT NULL, dest text NOT NULL, source_schema text NOT NULL, "
        "source text NOT NULL, token text NOT NULL UNIQUE, deployment text NOT NULL, dag_id text NOT NULL, "
        "run_id text NOT NULL, host text NOT NULL, folder text NOT NULL, "
        "alive_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (schema_name, dest))"
    ).format(CLAIMS),
    sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (schema_name text NOT NULL, alias text NOT NULL, "
        "collection_schema text NOT NULL, collection_id text NOT NULL, embedding_model_id text NOT NULL, "
        "previous_collection_id text NOT NULL, previous_model_id text NOT NULL, run_id text NOT NULL, "
        "hooked boolean NOT NULL, switched_at timestamptz NOT NULL, PRIMARY KEY (schema_name, alias))"
    ).format(ALIASES),
)


@dataclass(frozen=True)
class Names:
    """
    The names that belong to a collection or an alias.

    :param base: the collection's id, or the alias.
    :param schema: where its tables or views are, or would be created.
    """

    base: str
    schema: str = PUBLIC

    @property
    def objects(self) -> sql.Identifier:
        """The table or view of objects."""
        return sql.Identifier(self.schema, self.objects_name)

    @property
    def parts(self) -> sql.Identifier:
        """The table or view of parts."""
        return sql.Identifier(self.schema, self.parts_name)

    @property
    def marks(self) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self.marks_name)

    @property
    def objects_name(self) -> str:
        """The unquoted name."""
        return f"dbo_{self.base}"

    @property
    def parts_name(self) -> str:
        """The unquoted name."""
        return f"dbop_{self.base}"

    @property
    def marks_name(self) -> str:
        """The unquoted name; marks of all schemas are in one, and it never exceeds the limit."""
        if self.schema == PUBLIC:
            return f"marks_{self.base}"
        digest = hashlib.sha256(f"{self.schema}\0{self.base}".encode()).hexdigest()[:24]
        return f"of_{digest}_{self.base.encode()[: MAX_NAME - 28].decode(errors='ignore')}"

    @property
    def objects_path(self) -> str:
        """The table of objects in the form for ``to_regclass``."""
        return f"{quoted(self.schema)}.{quoted(self.objects_name)}"

    @property
    def parts_path(self) -> str:
        """The table of parts in the form for ``to_regclass``."""
        return f"{quoted(self.schema)}.{quoted(self.parts_name)}"

    @property
    def index_name(self) -> str:
        """The unquoted name of the ANN index."""
        return f"{self.base}_index"

    def create(self, dimensions: int, collation: sql.Composable) -> list[sql.Composed]:
        """
        Return statements that create missing tables.

        The foreign key of parts comes later (:meth:`foreign_key`), as one check after loading costs far less than one
        per row.

        :param collation: of the objects' ids: a clause, or empty.
        """
        parts = {
            "objects": self.objects,
            "parts": self.parts,
            "marks": self.marks,
            "key": sql.SQL("varchar({})").format(MAX_ID) + collation,
            "text": sql.SQL("varchar({})").format(MAX_ID),
            "vector": sql.SQL("vector({})").format(dimensions),
        }
        statements = (
            "CREATE TABLE IF NOT EXISTS {objects} (object_id {key} PRIMARY KEY, payload jsonb, storage_meta jsonb, "
            "original_id {key}, user_id {text}, session_id {text})",
            "CREATE TABLE IF NOT EXISTS {parts} (part_id {text} PRIMARY KEY, object_id {key}, "
            "vector {vector}, is_average boolean, user_id {text})",
            # `recipe` holds the embedding config hash, `run` the plan's token: names of the first version, kept so that
            # its tables stay readable.
            "CREATE TABLE IF NOT EXISTS {marks} (object_id {key} PRIMARY KEY, version bytea NOT NULL, "
            "recipe bytea NOT NULL, content text NOT NULL, stage text NOT NULL, detail text NOT NULL, "
            "run text NOT NULL)",
        )
        return [sql.SQL(statement).format(**parts) for statement in statements]

    def early_indexes(self) -> list[sql.Composed]:
        """Return statements for the indexes that find an object's parts and copies."""
        return [
            sql.SQL("CREATE INDEX ON {} (object_id)").format(self.parts),
            sql.SQL("CREATE INDEX ON {} (original_id)").format(self.objects),
        ]

    def late_indexes(self) -> dict[str, sql.Composed]:
        """Return statements by column for indexes that only readers need; they are built faster after loading."""
        return {
            "payload": sql.SQL("CREATE INDEX ON {} USING gin (payload)").format(self.objects),
            "user_id": sql.SQL("CREATE INDEX ON {} (user_id)").format(self.objects),
            "session_id": sql.SQL("CREATE INDEX ON {} (session_id)").format(self.objects),
        }

    def foreign_key(self) -> sql.Composed:
        """Return the statement that adds the foreign key from parts to objects."""
        return sql.SQL("ALTER TABLE {} ADD FOREIGN KEY (object_id) REFERENCES {}").format(self.parts, self.objects)

    def failed_index(self) -> sql.Composed:
        """Return the statement for the index that counts a plan's failed items."""
        return sql.SQL("CREATE INDEX ON {} (run) WHERE stage <> ''").format(self.marks)


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def schema_of(name: LiteralString) -> sql.Composed:
    """
    Return an expression for the schema where this session's search path finds an id's table or view.

    :param name: an expression for the id; ``%s`` for a value.
    :returns: without such a table, the schema where it would be created.
    """
    return sql.SQL(
        "coalesce((SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(quote_ident('dbo_' || {}))), current_schema()::text, '')"
    ).format(sql.SQL(name))


def locate(connection: psycopg.Connection[Any], name: str, what: str = "collection's id") -> Names:
    """
    Find the schema that an id means in this session.

    :param what: how the message calls the name.
    :raises RequestError: as :func:`check_name`.
    """
    check_name(name, what)
    row = connection.execute(sql.SQL("SELECT {}").format(schema_of("%s::text")), (name,)).fetchone()
    return Names(name, row[0] if row else PUBLIC)


def check_name(name: str, what: str) -> None:
    """
    Refuse a name that cannot be part of table names.

    :param what: how the message calls the name.
    :raises RequestError: it is empty, too long, or has control characters or ``%``.
    """
    if not isinstance(name, str) or not name:
        raise RequestError(f"the {what} is empty.")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise RequestError(f"the {what} {name!r} has control characters.")
    if "%" in name:  # the driver would take it for a placeholder
        raise RequestError(f"the {what} {name!r} has a '%', which is not supported.")
    names = Names(name)
    longest = max((names.index_name, names.marks_name), key=lambda text: len(text.encode()))
    if len(longest.encode()) > MAX_NAME:
        raise RequestError(
            f"the {what} {name!r} is too long: '{longest}' has {len(longest.encode())} bytes, PostgreSQL's names have "
            f"at most {MAX_NAME}."
        )


def check_info(info: CollectionInfo) -> None:
    """
    Refuse a collection that this store could not index.

    :raises RequestError: says what to do.
    """
    check_name(info.collection_id, "collection's id")
    if not 1 <= info.dimensions <= MAX_DIMENSIONS:
        raise RequestError(
            f"collection '{info.collection_id}': pgvector indexes vectors of 1 to {MAX_DIMENSIONS} dimensions, not "
            f"{info.dimensions}: choose a smaller model, or let it shorten its vectors (Matryoshka models can)."
        )
    if info.metric not in OPERATORS:
        raise RequestError(f"collection '{info.collection_id}': the metric is one of {', '.join(OPERATORS)}.")
    if not 2 <= info.m <= 100 or not 4 <= info.ef_construction <= 1000 or info.ef_construction < 2 * info.m:
        raise RequestError(
            f"collection '{info.collection_id}': HNSW takes m from 2 to 100, and ef_construction from 2 * m to 1000, "
            f"not m={info.m}, ef_construction={info.ef_construction}."
        )
