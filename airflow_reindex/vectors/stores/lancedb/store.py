"""LanceDB as a store of collections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from lancedb.table import Table

from airflow_reindex.core.claims import Claim, Owner
from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.vectors.model.collection import CollectionInfo, Metric
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.stores.lancedb.collection import DISTANCES, LanceCollection, schema
from airflow_reindex.vectors.stores.lancedb.database import Database, table_name
from airflow_reindex.vectors.stores.lancedb.marks import MARKS
from airflow_reindex.vectors.stores.lancedb.registry import Document, Registry, fence


class LanceStore:
    """
    Collections in a LanceDB database; see :class:`airflow_reindex.vectors.model.store.Store`.

    Limits compared with a server: heartbeats use the clocks of the machines that write them, so these should agree; the
    claim is checked right before each commit, not within it, so that a run that was taken over may still finish its
    current commit; and foreign writers are not held during a switch.

    :param uri: a folder, or a URL such as ``s3://bucket/path``.
    :param storage_options: options of the object store, such as credentials.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self._database = Database(uri, storage_options)
        self._registry = Registry(self._database)

    @property
    def label(self) -> str:
        return self._database.uri

    def check(self) -> None:
        """Read the registry."""
        self._registry.read()

    def prepare(self) -> None:
        self._registry.prepare()

    def list_collections(self) -> list[str]:
        return sorted(self._registry.read()["collections"])

    def find(self, collection_id: str) -> CollectionInfo | None:
        found = self._find(collection_id)
        return None if found is None else found[1]

    def _find(self, collection_id: str) -> tuple[Table, CollectionInfo] | None:
        name = table_name(collection_id)
        table = self._database.table(name)
        if table is None:
            return None
        with self._database.translated():
            columns, indices = table.schema, list(table.list_indices())
        missing = [column for column in schema(1).names if column not in columns.names]
        if missing or not pa.types.is_fixed_size_list(columns.field("vector").type):
            raise RequestError(
                f"{self.label}: the table '{name}' is no collection: it needs vectors as fixed-size lists, and the "
                f"columns {', '.join(schema(1).names)}."
            )
        noted = self._registry.read()["collections"].get(collection_id, {"embedding_model_id": ""})
        metric: Metric = noted.get("metric", "cosine")
        for index in indices:
            if "vector" in index.columns and (stats := table.index_stats(index.name)):
                metric = next((ours for ours, theirs in DISTANCES.items() if theirs == stats.distance_type), metric)
        known = {**noted, "metric": metric, "dimensions": columns.field("vector").type.list_size}
        return table, CollectionInfo(**{**known, "collection_id": collection_id})

    def open(self, collection_id: str) -> LanceCollection:
        found = self._find(collection_id)
        if found is None:
            raise RequestError(f"{self.label} has no collection '{collection_id}'.")
        marks = self._database.table(_marks_name(collection_id))
        return LanceCollection(self._database, self._registry, found[1], found[0], marks)

    def check_info(self, info: CollectionInfo) -> None:
        """Accept everything: LanceDB indexes vectors of any length."""

    def create(self, token: str, info: CollectionInfo) -> None:
        fence(self._registry.read(), token)
        seen = self.find(info.collection_id)
        if seen is not None:
            wanted = info if seen.embedding_model_id else replace(info, embedding_model_id="")
            if replace(seen, m=info.m, ef_construction=info.ef_construction) != wanted:
                raise ConflictError(
                    f"{self.label} has a collection '{info.collection_id}' that is made of something else: model "
                    f"'{seen.embedding_model_id}', {seen.dimensions} dimensions, metric {seen.metric}. Choose another "
                    "id, or drop it."
                )
        else:
            # Marks of a collection that was dropped by hand: rows that were never written would count as removed.
            self._database.drop(_marks_name(info.collection_id))
        self._database.create(_marks_name(info.collection_id), MARKS)
        self._database.create(table_name(info.collection_id), schema(info.dimensions))

        def note(document: Document) -> None:
            fence(document, token)
            document["collections"][info.collection_id] = asdict(info)

        self._registry.change(note)

    def drop(self, collection_id: str) -> None:
        def forget(document: Document) -> None:
            if followers := _followers(document, collection_id):
                raise ConflictError(f"the alias '{followers[0]}' points to '{collection_id}'; it cannot be dropped.")
            document["collections"].pop(collection_id, None)

        self._registry.change(forget)
        # Marks go first: those of a dropped collection would be wrong for the next one of this name.
        self._database.drop(_marks_name(collection_id))
        self._database.drop(table_name(collection_id))

    def claims(self) -> list[Claim]:
        return _claims(self._registry.read())

    def take(self, claim: Claim, judge: Callable[[Sequence[Claim]], Claim | None]) -> Claim | None:
        """Take the claim by compare-and-swap; ``judge`` is called again after each conflict."""

        def write(document: Document) -> Claim | None:
            replaced = judge(_claims(document))
            if replaced is not None and _holds(document, replaced):
                del document["claims"][replaced.dest]
            if claim.dest in document["claims"]:
                raise ConflictError(f"collection '{claim.dest}' is being built by another run.")
            document["claims"][claim.dest] = {
                "source": claim.source,
                "token": claim.token,
                "owner": asdict(claim.owner),
                "alive_at": time.time(),
            }
            return replaced

        replaced = self._registry.change(write)
        self._registry.tidy()
        return replaced

    def touch(self, claim: Claim) -> bool:
        if not _holds(self._registry.read(), claim):
            return False

        def live(document: Document) -> bool:
            if held := _holds(document, claim):
                document["claims"][claim.dest]["alive_at"] = time.time()
            return held

        return self._registry.change(live)

    def release(self, claim: Claim) -> None:
        def remove(document: Document) -> None:
            if _holds(document, claim):
                del document["claims"][claim.dest]

        self._registry.change(remove)

    def followers(self, collection_id: str) -> list[str]:
        return _followers(self._registry.read(), collection_id)

    def pointer(self, alias: str) -> Pointer | None:
        found = self._registry.read()["aliases"].get(alias)
        return None if found is None else Pointer(**found)

    def check_alias(self, alias: str) -> None:
        if self._database.table(table_name(alias)) is not None:
            raise RequestError(
                f"the alias '{alias}' cannot be used: it is the name of a table. Choose another one, so that nobody "
                "takes one for the other."
            )

    def repoint(self, pointer: Pointer, token: str | None) -> None:
        self.check_alias(pointer.alias)
        if self.find(pointer.collection_id) is None:
            raise RequestError(f"{self.label} has no collection '{pointer.collection_id}'.")

        def point(document: Document) -> None:
            if token is not None:
                fence(document, token)
            seen: dict[str, Any] = document["aliases"].get(pointer.alias, {})
            moved = seen.get("collection_id") != pointer.collection_id
            switched_at = datetime.now(UTC).isoformat() if moved else seen["switched_at"]
            document["aliases"][pointer.alias] = asdict(replace(pointer, switched_at=switched_at))

        self._registry.change(point)

    @contextmanager
    def hold_writers(self, collection_id: str, seconds: float) -> Iterator[None]:  # noqa: ARG002
        """
        Do nothing: LanceDB has no lock that other writers would respect.

        The catch-up after a switch finds what they write during it; pause writers to avoid that.
        """
        yield

    def close(self) -> None:
        """Nothing to close."""


def _marks_name(collection_id: str) -> str:
    return f"_reindex_marks.{table_name(collection_id)}"


def _claims(document: Document) -> list[Claim]:
    return [
        Claim(
            dest=dest,
            source=found["source"],
            token=found["token"],
            owner=Owner(**found["owner"]),
            silent=max(0.0, time.time() - found["alive_at"]),
        )
        for dest, found in sorted(document["claims"].items())
    ]


def _holds(document: Document, claim: Claim) -> bool:
    return bool(document["claims"].get(claim.dest, {}).get("token") == claim.token)


def _followers(document: Document, collection_id: str) -> list[str]:
    return sorted(alias for alias, found in document["aliases"].items() if found["collection_id"] == collection_id)
