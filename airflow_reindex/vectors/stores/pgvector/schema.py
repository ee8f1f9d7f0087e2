"""Names and definitions of tables: EmbeddingStudio's two a collection, and our own beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.model.collection import MAX_ID, CollectionInfo, Metric

#: PostgreSQL cuts longer names without a word.
MAX_NAME = 63
#: pgvector's HNSW index takes no longer vectors of the type ``vector``.
MAX_DIMENSIONS = 2000

SCHEMA, PUBLIC = "airflow_reindex", "public"
COLLECTIONS = sql.Identifier(SCHEMA, "collections")
CLAIMS = sql.Identifier(SCHEMA, "claims")
ALIASES = sql.Identifier(SCHEMA, "aliases")

OPERATORS: dict[Metric, str] = {"cosine": "<=>", "euclid": "<->", "dot": "<#>"}
OPCLASSES: dict[Metric, str] = {"cosine": "vector_cosine_ops", "euclid": "vector_l2_ops", "dot": "vector_ip_ops"}

#: Two steps of making tables must not meet: the second number says which.
LOCK_PREPARE, LOCK_CLAIMS = (0x5EED_1D, 1), (0x5EED_1D, 2)
#: Builds of indexes of one collection: the second number comes from its id.
LOCK_BUILD = 0x5EED_1E

#: Ids mean tables in a schema, as the search path of a connection finds them: the same id may be two tenants' own.
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
    The names that belong to a collection or to an alias.

    :param base: the collection's id, or the alias.
    :param schema: where its tables or views are, or would be made.
    """

    base: str
    schema: str = PUBLIC

    @property
    def objects(self) -> sql.Identifier:
        """The table (or view) of objects."""
        return sql.Identifier(self.schema, self.objects_name)

    @property
    def parts(self) -> sql.Identifier:
        """The table (or view) of parts."""
        return sql.Identifier(self.schema, self.parts_name)

    @property
    def marks(self) -> sql.Identifier:
        """The table of marks."""
        return sql.Identifier(SCHEMA, self.marks_name)

    @property
    def objects_name(self) -> str:
        """Unquoted."""
        return f"dbo_{self.base}"

    @property
    def parts_name(self) -> str:
        """Unquoted."""
        return f"dbop_{self.base}"

    @property
    def marks_name(self) -> str:
        """Unquoted; those of all schemas lie in one, and no schema makes a name too long."""
        if self.schema == PUBLIC:
            return f"marks_{self.base}"
        digest = hashlib.sha256(f"{self.schema}\0{self.base}".encode()).hexdigest()[:24]
        return f"of_{digest}_{self.base.encode()[: MAX_NAME - 28].decode(errors='ignore')}"

    @property
    def objects_path(self) -> str:
        """The table of objects as ``to_regclass`` takes it."""
        return f"{quoted(self.schema)}.{quoted(self.objects_name)}"

    @property
    def parts_path(self) -> str:
        """The table of parts as ``to_regclass`` takes it."""
        return f"{quoted(self.schema)}.{quoted(self.parts_name)}"

    @property
    def index_name(self) -> str:
        """The ANN index, unquoted."""
        return f"{self.base}_index"

    def create(self, dimensions: int, collation: sql.Composable) -> list[sql.Composed]:
        """
        Statements that create the tables where they are missing.

        Parts are not tied to objects yet: the foreign key is checked once when all is loaded (:meth:`foreign_key`),
        which costs far less than a check a row.

        :param dimensions: of the vectors.
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
            "CREATE TABLE IF NOT EXISTS {marks} (object_id {key} PRIMARY KEY, version bytea NOT NULL, "
            "recipe bytea NOT NULL, content text NOT NULL, stage text NOT NULL, detail text NOT NULL, "
            "run text NOT NULL)",
        )
        return [sql.SQL(statement).format(**parts) for statement in statements]

    def early_indexes(self) -> list[sql.Composed]:
        """Statements for the indexes by which objects' parts and copies are found."""
        return [
            sql.SQL("CREATE INDEX ON {} (object_id)").format(self.parts),
            sql.SQL("CREATE INDEX ON {} (original_id)").format(self.objects),
        ]

    def late_indexes(self) -> dict[str, sql.Composed]:
        """Statements for the indexes that only readers need, by column: they are made faster when all is loaded."""
        return {
            "payload": sql.SQL("CREATE INDEX ON {} USING gin (payload)").format(self.objects),
            "user_id": sql.SQL("CREATE INDEX ON {} (user_id)").format(self.objects),
            "session_id": sql.SQL("CREATE INDEX ON {} (session_id)").format(self.objects),
        }

    def foreign_key(self) -> sql.Composed:
        """A statement that ties parts to objects."""
        return sql.SQL("ALTER TABLE {} ADD FOREIGN KEY (object_id) REFERENCES {}").format(self.parts, self.objects)

    def failed_index(self) -> sql.Composed:
        """A statement for the index by which a run's failed items are counted."""
        return sql.SQL("CREATE INDEX ON {} (run) WHERE stage <> ''").format(self.marks)


def quoted(name: str) -> str:
    """
    An identifier as a text.

    :param name: the name.
    """
    return '"' + name.replace('"', '""') + '"'


def schema_of(name: LiteralString) -> sql.Composed:
    """
    An expression for the schema that an id means in this session: where the search path finds its table or view.

    :param name: an expression for the id; ``%s`` for a value.
    :returns: an expression; it gives the schema where the table would be made when there is none.
    """
    return sql.SQL(
        "coalesce((SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(quote_ident('dbo_' || {}))), current_schema()::text, '')"
    ).format(sql.SQL(name))


def locate(connection: psycopg.Connection[Any], name: str, what: str = "collection's id") -> Names:
    """
    Find the schema that an id means in this session.

    :param connection: the connection.
    :param name: a collection's id, or an alias.
    :param what: what is named, for the message.
    :returns: the names that belong to it.
    :raises RequestError: as :func:`check_name`.
    """
    check_name(name, what)
    row = connection.execute(sql.SQL("SELECT {}").format(schema_of("%s::text")), (name,)).fetchone()
    return Names(name, row[0] if row else PUBLIC)


def check_name(name: str, what: str) -> None:
    """
    Refuse a name whose tables could not be named after it.

    :param name: a collection's id, or an alias.
    :param what: what is named, for the message.
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

    :param info: what it is made of.
    :raises RequestError: and what to do about it.
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
