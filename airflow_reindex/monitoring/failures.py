"""Failures of a run as a table: sorted, filtered, counted by column, and paged."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from airflow_reindex.core.failures import Code
from airflow_reindex.core.report import Failure
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.report import ERRORS, FAILURES
from airflow_reindex.monitoring.chunks import FAILED as CHUNK_FAILED
from airflow_reindex.monitoring.overview import fresh_report
from airflow_reindex.monitoring.run_info import COLLECTION, RunInfo
from airflow_reindex.monitoring.run_snapshot import RunSnapshot
from airflow_reindex.vectors.account import FAILED, OUTCOMES

COLUMNS = ("table", "worker", "chunk", "kind", "message")
_LABELS = dict(zip(COLUMNS, ("Table", "Worker", "Chunk", "Kind", "Message"), strict=True))
_ITEM_LABELS = dict(zip(COLUMNS, ("Collection", "Window", "Item", "Stage", "Message"), strict=True))
#: The same columns in a list of failed items.
_ITEM_COLUMNS = dict(zip(COLUMNS, ("collection", "window", "object_id", "failure_stage", "detail"), strict=True))
#: Most kinds and workers offered as filters.
_KINDS, _WORKERS = 50, 1000
#: Beginnings of a cell that spreadsheets interpret as a formula.
_FORMULA = r"^[=+\-@\t\r\n]"
#: Message for a chunk whose task left no error.
_LOST = "the task that was to read it ended without a word: clear it to do what is left."


@dataclass(frozen=True, kw_only=True)
class Filter:
    """
    Selection and order of failures.

    :param text: a substring of any column, ignoring case; empty for all.
    :param kind: empty for all.
    :param worker: a worker or a window; empty for all.
    :param sort: a column's name.
    """

    text: str = ""
    kind: str = ""
    worker: str = ""
    sort: str = "chunk"
    descending: bool = False


class Failures:
    """
    The failures of a run.

    :param table: columns :data:`COLUMNS`.
    :param labels: the columns' names in the run's job.
    """

    def __init__(self, table: pa.Table, labels: Mapping[str, str]) -> None:
        self.table, self.labels = table, labels

    def select(self, wanted: Filter) -> pa.Table:
        """Return the selected failures, sorted."""
        table = self._matching(wanted, kind=wanted.kind)
        order = [(wanted.sort, "descending" if wanted.descending else "ascending")]
        return table.sort_by(order if wanted.sort == "chunk" else [*order, ("chunk", "ascending")])

    def _matching(self, wanted: Filter, *, kind: str) -> pa.Table:
        table = self.table
        for column, value in (("kind", kind), ("worker", wanted.worker)):
            if value:
                table = table.filter(pc.equal(table[column], value))
        if wanted.text:
            found = None
            for column in COLUMNS:
                hit = pc.match_substring(pc.cast(table[column], pa.string()), wanted.text, ignore_case=True)
                found = hit if found is None else pc.or_(found, hit)
            table = table.filter(found)
        return table

    def page(self, wanted: Filter, offset: int, limit: int) -> dict[str, Any]:
        """
        Return one page of the selected failures.

        :returns: ``total``, ``matched``, ``columns``, ``kinds``, ``workers`` and ``rows``.
        """
        found = self.select(wanted)
        kinds = self._matching(wanted, kind="").group_by("kind").aggregate([("message", "count")])
        kinds = kinds.sort_by([("message_count", "descending"), ("kind", "ascending")]).slice(0, _KINDS)
        workers = pc.unique(self.table["worker"].combine_chunks()).sort().slice(0, _WORKERS)
        return {
            "total": len(self.table),
            "matched": len(found),
            "columns": dict(self.labels),
            "kinds": [{"kind": row["kind"], "count": row["message_count"]} for row in kinds.to_pylist()],
            "workers": workers.to_pylist(),
            "rows": found.slice(offset, limit).to_pylist(),
        }

    def csv(self, wanted: Filter) -> Iterator[str]:
        """Yield the selected failures as CSV, some lines at a time; spreadsheets take no cell for a formula."""
        table = self.select(wanted)
        safe = pa.table({name: _harmless(table[name]) for name in COLUMNS})
        yield _lines([list(self.labels.values())])
        for batch in safe.to_batches(max_chunksize=2_000):
            yield _lines(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _lines(rows: Any) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _harmless(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    risky = pc.match_substring_regex(column, _FORMULA)
    return pc.if_else(risky, pc.binary_join_element_wise("'", column, ""), column)


def read_failures(folder: Folder, snapshot: RunSnapshot, info: RunInfo) -> Failures:
    """Read what has failed in a run so far."""
    if info.kind == COLLECTION:
        report = fresh_report(snapshot, info)
        # A report without failed items may be beside the list of an earlier attempt.
        names = [f"{OUTCOMES}/{n}" for n in folder.names(OUTCOMES) if n[:-7].isdigit()]
        if report is not None:
            names = [FAILED] if report["failed"] else []
        return Failures(_items(folder, names), _ITEM_LABELS)
    return Failures(_chunks(folder, snapshot, info), _LABELS)


def _chunks(folder: Folder, snapshot: RunSnapshot, info: RunInfo) -> pa.Table:
    report = fresh_report(snapshot, info)
    found = _so_far(snapshot) if report is None else _reported(folder, report)
    columns = [[getattr(failure, name) for failure in found] for name in COLUMNS]
    types = [pa.int64() if name == "chunk" else pa.string() for name in COLUMNS]
    return pa.table([pa.array(*column) for column in zip(columns, types, strict=True)], names=COLUMNS)


def _reported(folder: Folder, report: Mapping[str, Any]) -> list[Failure]:
    listed = folder.read_json(FAILURES)
    if listed is not None:
        return [Failure.from_dict(value) for value in listed]
    # Earlier versions wrote the map of errors alone, which has no kinds.
    known = folder.read_json(ERRORS)
    if known is None:
        return [Failure.from_dict(value) for value in report["failed_items"]]
    return [
        Failure(table=table, worker=worker, chunk=int(chunk), message=message)
        for table, workers in known.items()
        for worker, chunks in workers.items()
        for chunk, message in chunks.items()
    ]


def _so_far(snapshot: RunSnapshot) -> list[Failure]:
    chunks = snapshot.chunks
    if chunks is None:
        return []
    bad = chunks.state == CHUNK_FAILED
    failed = dict(zip(chunks.chunk[bad].tolist(), chunks.worker[bad].tolist(), strict=True))
    said = [f for r in snapshot.records for f in r.failures if f.chunk in failed]
    told = {failure.chunk for failure in said}
    table = snapshot.plan["request"]["director_table"] if snapshot.plan else ""
    return said + [
        Failure(table=table, worker=chunks.workers[w], chunk=chunk, message=_LOST, kind=Code.LOST_TASK)
        for chunk, w in failed.items()
        if chunk not in told
    ]


def _items(folder: Folder, names: list[str]) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in _ITEM_COLUMNS.values()])
    tables = [schema.empty_table()]
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    for text in folder.read_many([name for name in names if name.endswith(".ndjson")]).values():
        if text:
            # A line holds a detail and an id of 1500 characters each, escaped six-fold at worst.
            read = pj.ReadOptions(block_size=max(1 << 20, min(len(text), 8 << 20)))
            tables.append(
                pj.read_json(pa.BufferReader(text), read_options=read, parse_options=options).select(schema.names)
            )
    return pa.concat_tables(tables).rename_columns(list(COLUMNS))
