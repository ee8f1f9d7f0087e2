"""Which worker serves which chunk, and which mapped task reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from airflow_reindex.core.windows import MAX_MAPPED_TASKS, contiguous_groups, task_count
from airflow_reindex.director.model.inventory import Inventory
from airflow_reindex.director.model.request import BuildRequest
from airflow_reindex.director.mysql.types import IntegerType

#: The cost of reading a chunk table besides its rows (a round trip, opening the file), in rows.
CHUNK_OVERHEAD_ROWS = 1_000
#: The least number of tasks per worker, to keep a few Airflow workers busy, as long as each task has this many rows.
LEAST_GROUPS_PER_WORKER, LEAST_GROUP_ROWS = 4, 100_000


@dataclass(frozen=True)
class PlannedChunk:
    """
    One chunk and where to read it.

    :param chunk: its number.
    :param workers: the worker that serves it, then the other replicas in the order in which to try them.
    :param rows: the number of its rows, as far as known.
    :param fingerprints: by worker, the fingerprint of its table, as far as known.
    """

    chunk: int
    workers: tuple[str, ...]
    rows: int
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """
    The plan of a run; lies in the run's folder as ``plan.json``.

    :param token: the claim's token; files and tables with another one belong to another plan.
    :param conn_id: the qserv connection.
    :param key_type: the SQL type as the catalog writes it, without nullability.
    :param sub_chunk_type: the SQL type, with nullability.
    :param unique: whether the key is unique.
    :param groups: the chunks of each mapped extract task; stored in a file of their own, as they are many.
    :param planned_chunks: the number of chunks in the groups.
    :param group_rows: rows of a row group in a staged file.
    :param adopted: manifests of earlier runs that are reused, each with its chunks that have changed.
    :param adopted_chunks: the number of chunks that they hold.
    :param unchecked: what the catalog could not check.
    :param started_at: when the run was planned, UTC.
    :param unlisted: chunk, worker and rows of chunk tables that are left out, because the catalog does not list them.
    :param group_workers: of a plan that was read back without its groups, the worker that serves each of them first.
    """

    token: str
    request: BuildRequest
    conn_id: str
    index_database: str
    key_column: str
    key_type: str
    sub_chunk_type: str
    unique: bool
    groups: tuple[tuple[PlannedChunk, ...], ...]
    planned_chunks: int
    group_rows: int
    adopted: Mapping[str, tuple[int, ...]]
    adopted_chunks: int
    unchecked: tuple[str, ...]
    started_at: str
    unlisted: tuple[tuple[int, str, int], ...] = ()
    group_workers: tuple[str, ...] = ()

    @property
    def key(self) -> IntegerType:
        """The key's type; NOT NULL in the index, whatever the chunk tables say."""
        return IntegerType.parse(self.key_type, self.key_column)

    @property
    def sub_chunk(self) -> IntegerType:
        return IntegerType.parse(self.sub_chunk_type, "subChunkId")

    @property
    def first_workers(self) -> tuple[str, ...]:
        """Of each group, the worker that serves it first."""
        return self.group_workers or tuple(group[0].workers[0] for group in self.groups)

    @property
    def chunks(self) -> int:
        """The number of chunks that the index covers, those of reused manifests included."""
        return self.planned_chunks + self.adopted_chunks

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON types, without its groups."""
        return {
            **{k: v for k, v in vars(self).items() if k != "groups"},
            "request": asdict(self.request),
            "group_workers": list(self.first_workers),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Plan:
        """Read a plan back, without its groups."""
        return cls(
            **{
                **value,
                "request": BuildRequest.from_dict(value["request"]),
                "groups": (),
                "adopted": {name: tuple(dropped) for name, dropped in value["adopted"].items()},
                "unchecked": tuple(value["unchecked"]),
                "group_workers": tuple(value.get("group_workers", ())),
                "unlisted": tuple((chunk, worker, rows) for chunk, worker, rows in value.get("unlisted", ())),
            }
        )


def assign(
    placement: Mapping[int, Sequence[str]], inventory: Inventory, known: Iterable[str]
) -> dict[str, list[PlannedChunk]]:
    """
    Choose the worker that serves each chunk: the largest chunk first, to the replica with the least work so far.

    Workers that did not answer (not in the inventory), and replicas whose table is missing, are chosen only when no
    other replica is left.

    :param known: the workers that can be connected to.
    :returns: the chunks of each worker, by chunk number.
    """
    reachable = set(known)
    sizes = {
        chunk: max((inventory[w][chunk].rows for w in workers if chunk in inventory.get(w, {})), default=0)
        for chunk, workers in placement.items()
    }
    load = dict.fromkeys(sorted(reachable), 0)
    result: dict[str, list[PlannedChunk]] = {worker: [] for worker in load}
    for chunk in sorted(placement, key=lambda number: (-sizes[number], number)):
        workers = [worker for worker in placement[chunk] if worker in reachable]
        order = sorted(
            workers, key=lambda w: (chunk not in inventory.get(w, {}), w not in inventory, load[w], workers.index(w))
        )
        marks = {w: inventory[w][chunk].fingerprint for w in order if chunk in inventory.get(w, {})}
        load[order[0]] += sizes[chunk] + CHUNK_OVERHEAD_ROWS
        result[order[0]].append(PlannedChunk(chunk, tuple(order), sizes[chunk], marks))
    return {worker: sorted(chunks, key=lambda c: c.chunk) for worker, chunks in result.items() if chunks}


def make_groups(
    assigned: Mapping[str, Sequence[PlannedChunk]], rows_per_task: int, most: int = MAX_MAPPED_TASKS
) -> tuple[tuple[PlannedChunk, ...], ...]:
    """
    Cut each worker's chunks into groups, one per mapped task, at most ``most``, and interleave the workers' groups.

    Every chunk is in exactly one group. Neighbours in the list are on different workers, so that tasks that start
    together do not queue at one server.
    """
    weights = {w: [c.rows + CHUNK_OVERHEAD_ROWS for c in chunks] for w, chunks in assigned.items()}
    total = sum(map(sum, weights.values()))
    # Each worker's share rounds up, so leave space for one more group per worker.
    per_task = max(rows_per_task, -(-total // max(1, most - len(assigned))))
    least = {w: min(LEAST_GROUPS_PER_WORKER, sum(weights[w]) // LEAST_GROUP_ROWS) for w in assigned}
    wanted = {w: task_count(sum(weights[w]), per_task, least=least[w]) for w in assigned}
    if sum(wanted.values()) > most:
        wanted = {w: task_count(sum(weights[w]), per_task) for w in assigned}
    queues = [
        [tuple(chunks[i] for i in positions) for positions in contiguous_groups(weights[worker], wanted[worker])]
        for worker, chunks in assigned.items()
    ]
    longest = max(map(len, queues), default=0)
    return tuple(queue[i] for i in range(longest) for queue in queues if i < len(queue))


def group_as_list(group: Sequence[PlannedChunk]) -> list[Any]:
    """A group as plain JSON types."""
    return [[c.chunk, c.workers, c.rows, c.fingerprints] for c in group]


def group_from_list(value: Iterable[Any]) -> tuple[PlannedChunk, ...]:
    """Read a group back."""
    return tuple(PlannedChunk(chunk, tuple(workers), rows, marks) for chunk, workers, rows, marks in value)


def row_group_rows(rows: int, run_rows: int, window_rows: int) -> int:
    """
    The rows of a row group in a staged file: about what a load task needs of a run at a time.

    :param rows: rows of the index.
    :param run_rows: the most rows of a run.
    :param window_rows: rows that a load task merges at a time.
    :returns: a power of two from 2,048 (fewer rows make the files' footers large) to 32,768.
    """
    wanted = run_rows * window_rows // max(1, rows)
    return min(32_768, max(2_048, 1 << max(0, wanted.bit_length() - 1)))


def group_label(group: Sequence[PlannedChunk]) -> str:
    """A short name for a mapped extract task, such as ``worker-1 chunks 57840..57912 (31)``."""
    return f"{group[0].workers[0]} chunks {group[0].chunk}..{group[-1].chunk} ({len(group)})"
