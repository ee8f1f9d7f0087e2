"""Plans, manifests, rows and hypothesis settings that the pure tests share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings

from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import TASKS, TaskRecord
from airflow_reindex.director.extract.run_buffer import layout
from airflow_reindex.director.model.plan import Plan, PlannedChunk
from airflow_reindex.director.model.records import write_plan
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.model.runs import RUNS, Manifest, StagedChunk, StagedFile, read_part, write_run
from airflow_reindex.director.mysql.types import Checksum, Rows

#: 10 or 100 for a longer search, which then takes other examples each time; `make unit` takes a fraction.
FACTOR = float(os.environ.get("REINDEX_TEST_EXAMPLES", "1"))
TOKEN = "0123456789abcdef"

Row = tuple[int, int, int]


def examples(number: int) -> settings:
    """So many examples, the same ones each time."""
    return settings(
        max_examples=max(1, int(number * FACTOR)),
        deadline=None,
        derandomize=FACTOR <= 1,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def make_plan(groups: Sequence[Sequence[PlannedChunk]] = (), **changes: Any) -> Plan:
    """A plan of a table ``lsst.Object``."""
    fields: dict[str, Any] = {
        "token": TOKEN,
        "request": BuildRequest(database="lsst", director_table="Object"),
        "conn_id": "qserv",
        "index_database": "qservMeta",
        "key_column": "objectId",
        "key_type": "BIGINT",
        "sub_chunk_type": "INT NOT NULL",
        "unique": True,
        "groups": tuple(tuple(group) for group in groups),
        "planned_chunks": sum(map(len, groups)),
        "group_rows": 32_768,
        "adopted": {},
        "adopted_chunks": 0,
        "unchecked": (),
        "started_at": "2026-01-01T00:00:00Z",
    }
    return Plan(**{**fields, **changes})


def planned(chunk: int, *workers: str, rows: int = 10) -> PlannedChunk:
    """A chunk of a plan."""
    names = workers or ("w1",)
    return PlannedChunk(chunk, names, rows, dict.fromkeys(names, f"mark-{chunk}"))


def staged(chunk: int, worker: str = "w1", checksum: Checksum | None = None) -> StagedChunk:
    """A chunk of a manifest."""
    return StagedChunk(chunk, worker, f"mark-{chunk}", checksum or Checksum(1, chunk, chunk))


def manifest(
    name: str, chunks: Iterable[int], *, token: str = TOKEN, files: Sequence[StagedFile] = (), group: int = 0
) -> Manifest:
    """A manifest of some chunks; its name is short, such as ``a``."""
    return Manifest(
        f"{RUNS}/g{group:04d}-{name}.json",
        token,
        group,
        layout(make_plan()),
        tuple(staged(chunk) for chunk in chunks),
        tuple(files),
    )


def rows_of(key: Sequence[int], chunk: Sequence[int], sub: Sequence[int], kinds: str = "int64 int32") -> Rows:
    """Rows of an index; ``kinds`` names the types of key and sub-chunk."""
    key_kind, sub_kind = kinds.split()
    return Rows(np.array(key, key_kind), np.array(chunk, np.int32), np.array(sub, sub_kind))


def tuples(rows: Rows) -> list[Row]:
    """Rows as plain tuples."""
    return list(zip(rows.key.tolist(), rows.chunk.tolist(), rows.sub_chunk.tolist(), strict=True))


def stage(folder: Folder, name: str, pieces: Sequence[Rows], group_rows: int = 32_768) -> Manifest:
    """Write a manifest of one chunk a piece and one run a piece."""
    files = [f for i, piece in enumerate(pieces) for f in write_run(folder, f"{RUNS}/{name}{i}", piece, group_rows)]
    sums = {int(piece.chunk[0]): Checksum.of(piece) for piece in pieces if len(piece)}
    chunks = tuple(staged(chunk, checksum=sums[chunk]) for chunk in sorted(sums))
    made = replace(manifest(name, (), files=files), chunks=chunks)
    folder.write_json(made.name, made.as_dict())
    return made


BEGIN, END = "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:10.500000Z"
#: Two groups: chunks 1 and 2, chunk 3.
GROUPS = [[planned(1, "w1", "w2"), planned(2, "w1")], [planned(3, "w2")]]


def record(folder: Folder, task: str, index: int = -1, **changes: Any) -> None:
    """Leave a task's record, by default of one that ended well."""
    fields: dict[str, Any] = {"token": TOKEN, "started_at": BEGIN, "ended_at": END, "rows": 30}
    if task == "publish" and "error" not in changes:
        fields["result"] = {"rows": 30, "previous": None}
    folder.write_json(f"{TASKS}/{task}-{index}.json", asdict(TaskRecord(task, index, **{**fields, **changes})))


def plan_in(folder: Folder, **changes: Any) -> Plan:
    """Leave a plan and the record of its task."""
    plan = make_plan(GROUPS, **changes)
    write_plan(folder, plan)
    record(folder, "plan", token=plan.token, result={"dry_run": False, "chunks": plan.chunks})
    return plan


def stage_in(folder: Folder, *chunks: int, name: str = "a", token: str = TOKEN, group: int = 0) -> None:
    """Leave a manifest of some chunks."""
    made = manifest(name, chunks, token=token, group=group)
    folder.write_json(made.name, made.as_dict())


def content(folder: Folder, name: str) -> list[Row]:
    """All rows of a staged file."""
    return [row for piece in read_part(folder, name, None, None) for row in tuples(piece)]
