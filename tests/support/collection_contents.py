"""What a destination must hold in the end: the source's rows, and for each the vectors of its newest text."""

from __future__ import annotations

import numpy as np
from psycopg import sql

from airflow_reindex.vectors.sync.session import claim_of
from sandbox.servers.embedding_answers import hash_vectors
from tests.support.reindex import DIMENSIONS, NEW, OLD, Admin, Reindex


def _count(admin: Admin, statement: str, **names: str) -> int:
    filled = sql.SQL(statement).format(**{key: sql.Identifier(name) for key, name in names.items()})
    row = admin.execute(filled).fetchone()
    assert row is not None
    return int(row[0])


def count_difference(admin: Admin, one: str = OLD, other: str = NEW) -> int:
    """In how many rows two collections differ; both sides are looked at."""
    columns = "object_id, payload, storage_meta, user_id, session_id"
    return _count(
        admin,
        f"SELECT count(*) FROM ((SELECT {columns} FROM {{one}} EXCEPT ALL SELECT {columns} FROM {{other}}) UNION ALL "
        f"(SELECT {columns} FROM {{other}} EXCEPT ALL SELECT {columns} FROM {{one}})) AS d",
        one=f"dbo_{one}",
        other=f"dbo_{other}",
    )


def assert_vectors(admin: Admin, collection_id: str = NEW) -> None:
    """Each object has one part and one average, and both are the vector of the text that it has now."""
    objects, parts = sql.Identifier(f"dbo_{collection_id}"), sql.Identifier(f"dbop_{collection_id}")
    with admin.cursor(binary=True) as cursor:
        rows = cursor.execute(
            sql.SQL(
                "SELECT o.payload->>'text', a.vector, b.vector FROM {o} o "
                "LEFT JOIN {p} a ON a.part_id = o.object_id || ':0' AND NOT a.is_average "
                "LEFT JOIN {p} b ON b.part_id = o.object_id || ':average' AND b.is_average"
            ).format(o=objects, p=parts)
        ).fetchall()
    assert _count(admin, "SELECT count(*) FROM {p}", p=f"dbop_{collection_id}") == 2 * len(rows)
    expected = hash_vectors(collection_id, [text for text, _, _ in rows], DIMENSIONS[collection_id])
    for place in (1, 2):
        stored = [row[place] for row in rows]
        assert None not in stored, "an object has no part, or no average"
        # Before the numbers: how many there are.
        found = np.frombuffer(b"".join(vector[4:] for vector in stored), dtype=">f4").reshape(expected.shape)
        wrong = np.flatnonzero((found != expected).any(axis=1))
        assert not len(wrong), f"{len(wrong)} vectors belong to another text, such as that of {rows[wrong[0]][0]!r}"


def assert_moved(admin: Admin, source: str = OLD, dest: str = NEW) -> None:
    """The destination has the source's rows, each with the vectors of its text, and a mark that says so."""
    assert count_difference(admin, source, dest) == 0
    assert_vectors(admin, dest)
    names = {"o": sql.Identifier(f"dbo_{dest}"), "m": sql.Identifier("airflow_reindex", f"marks_{dest}")}
    unmarked = admin.execute(
        sql.SQL(
            "SELECT count(*) FROM {o} o FULL JOIN {m} m USING (object_id) WHERE m.stage <> '' OR m.version IS DISTINCT "
            "FROM substring(sha256(convert_to(ROW(o.payload, o.storage_meta, o.user_id, o.session_id)::text, 'UTF8')) "
            "FOR 16)"
        ).format(**names)
    ).fetchone()
    assert unmarked == (0,)


def keys_seen(admin: Admin, alias: str) -> set[str]:
    """What readers of an alias see."""
    rows = admin.execute(sql.SQL("SELECT object_id FROM {}").format(sql.Identifier(f"dbo_{alias}"))).fetchall()
    return {key for (key,) in rows}


def add_item(admin: Admin, collection_id: str, key: str, text: str) -> None:
    """Write an item as an application does: its row, and its vectors where the collection has a model."""
    objects, parts = sql.Identifier(f"dbo_{collection_id}"), sql.Identifier(f"dbop_{collection_id}")
    vector = str(hash_vectors(collection_id, [text], DIMENSIONS[collection_id])[0].tolist())
    with admin.transaction():
        admin.execute(
            sql.SQL(
                "INSERT INTO {} (object_id, payload) VALUES (%s, jsonb_build_object('text', %s::text)) "
                "ON CONFLICT (object_id) DO UPDATE SET payload = EXCLUDED.payload"
            ).format(objects),
            (key, text),
        )
        admin.execute(sql.SQL("DELETE FROM {} WHERE object_id = %s").format(parts), (key,))
        admin.execute(
            sql.SQL(
                "INSERT INTO {} (part_id, object_id, vector, is_average) "
                "SELECT %s || suffix, %s, %s, suffix = ':average' FROM unnest(ARRAY[':0', ':average']) AS suffix"
            ).format(parts),
            (key, key, vector),
        )


def remove_item(admin: Admin, collection_id: str, key: str) -> None:
    """Remove an item as an application does."""
    with admin.transaction():
        for table in ("dbop", "dbo"):
            admin.execute(
                sql.SQL("DELETE FROM {} WHERE object_id = %s").format(sql.Identifier(f"{table}_{collection_id}")),
                (key,),
            )


def text_of(admin: Admin, collection_id: str, key: str) -> str | None:
    """The text of an item; ``None`` when it is not there."""
    row = admin.execute(
        sql.SQL("SELECT payload->>'text' FROM {} WHERE object_id = %s").format(sql.Identifier(f"dbo_{collection_id}")),
        (key,),
    ).fetchone()
    return row[0] if row else None


def follower(run: Reindex, alias: str = "products") -> str:
    """The collection that an alias points to; empty when there is no such alias."""
    pointer = run.store().pointer(alias)
    return pointer.collection_id if pointer else ""


def finish(run: Reindex) -> None:
    """Let a run end: its claim is given back, and others learn that it has succeeded."""
    with run.tools() as tools:
        tools.store.release(claim_of(run.plan_made, run.owner))
    run.states["reindex_collection", run.run_id] = "success"


def waiting_for_lock(admin: Admin, table: str) -> bool:
    """Whether a session waits for a lock on a table."""
    statement = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
    return admin.execute(statement, (table,)).fetchone() is not None
