"""Which worker serves a chunk and which task reads it: nothing left out, nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.windows import MAX_MAPPED_TASKS
from airflow_reindex.director.model.inventory import TableInfo
from airflow_reindex.director.model.plan import (
    CHUNK_OVERHEAD_ROWS,
    LEAST_GROUPS_PER_WORKER,
    Plan,
    PlannedChunk,
    assign,
    group_as_list,
    group_from_list,
    group_label,
    make_groups,
)
from airflow_reindex.director.model.request import BuildRequest
from tests.support.samples import examples, make_plan, planned

WORKERS = ["w1", "w2", "w3", "w4"]
ROWS = st.one_of(st.integers(0, 1000), st.sampled_from([0, 10**6, 10**9]))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[int, list[str]], dict[str, dict[int, TableInfo]], list[str]]:
    """A placement, the tables of the workers that answered, and the workers that can be reached."""
    known = draw(st.lists(st.sampled_from(WORKERS), min_size=1, unique=True))
    chunks = draw(st.lists(st.integers(0, 200), max_size=40, unique=True))
    placement = {}
    for chunk in chunks:
        others = draw(st.lists(st.sampled_from(WORKERS), unique=True))
        placement[chunk] = others if set(others) & set(known) else [*others, draw(st.sampled_from(known))]
    answered = draw(st.lists(st.sampled_from(known), unique=True))
    inventory = {
        worker: {
            chunk: TableInfo(draw(ROWS), f"{worker}|{chunk}")
            for chunk, workers in placement.items()
            if worker in workers and draw(st.booleans())
        }
        for worker in answered
    }
    return placement, inventory, known


@given(worlds())
@example(({}, {}, WORKERS))
@examples(150)
def test_each_chunk_is_assigned_once_to_the_best_replica(
    world: tuple[dict[int, list[str]], dict[str, dict[int, TableInfo]], list[str]],
) -> None:
    placement, inventory, known = world
    assigned = assign(placement, inventory, known)
    chunks = [chunk for worker in assigned for chunk in assigned[worker]]
    assert Counter(c.chunk for c in chunks) == Counter(list(placement))
    assert all(assigned.values()), "a worker without chunks gets no group"
    for worker, mine in assigned.items():
        assert [c.chunk for c in mine] == sorted(c.chunk for c in mine)
        assert {c.workers[0] for c in mine} == {worker}
    for chunk in chunks:
        reachable = [worker for worker in placement[chunk.chunk] if worker in known]
        assert sorted(chunk.workers) == sorted(reachable), "each replica that can be reached, once"
        has = [worker in inventory and chunk.chunk in inventory[worker] for worker in chunk.workers]
        assert has == sorted(has, reverse=True), "replicas that have the table come first"
        tables = {w: inventory[w][chunk.chunk] for w in reachable if chunk.chunk in inventory.get(w, {})}
        assert chunk.rows == max((table.rows for table in tables.values()), default=0)
        assert chunk.fingerprints == {worker: table.fingerprint for worker, table in tables.items()}


def test_replicas_stay_in_the_catalogs_order_where_nothing_else_counts() -> None:
    inventory = {worker: {7: TableInfo(5, "m")} for worker in WORKERS}
    assigned = assign({7: ["w3", "w1", "w2"]}, inventory, WORKERS)
    assert [c.workers for c in assigned["w3"]] == [("w3", "w1", "w2")]


def test_a_worker_that_did_not_answer_is_the_last_choice() -> None:
    placement = {chunk: ["w1", "w2"] for chunk in range(10)}
    assigned = assign(placement, {"w2": {chunk: TableInfo(10, "m") for chunk in range(10)}}, ["w1", "w2"])
    assert list(assigned) == ["w2"]
    assert {c.workers for c in assigned["w2"]} == {("w2", "w1")}


def test_no_worker_answered_and_yet_each_chunk_is_planned() -> None:
    assigned = assign({chunk: ["w1", "w2"] for chunk in range(10)}, {}, ["w1", "w2"])
    assert sorted(c.chunk for chunks in assigned.values() for c in chunks) == list(range(10))
    assert {len(chunks) for chunks in assigned.values()} == {5}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
@examples(60)
def test_full_replicas_share_the_work(sizes: list[int]) -> None:
    tables = {chunk: TableInfo(rows, "") for chunk, rows in enumerate(sizes)}
    assigned = assign(dict.fromkeys(tables, WORKERS), dict.fromkeys(WORKERS, tables), WORKERS)
    loads = [sum(c.rows + CHUNK_OVERHEAD_ROWS for c in assigned.get(worker, ())) for worker in WORKERS]
    assert max(loads) - min(loads) <= max(sizes) + CHUNK_OVERHEAD_ROWS


@st.composite
def assignments(draw: st.DrawFn) -> dict[str, list[PlannedChunk]]:
    """Chunks of up to 30 workers, of very different sizes and numbers."""
    counts = draw(st.lists(st.one_of(st.integers(1, 4), st.sampled_from([1, 60])), min_size=1, max_size=30))
    number, result = 0, {}
    for worker, count in enumerate(counts):
        chunks = []
        for _ in range(count):
            chunks.append(planned(number, f"w{worker}", rows=draw(ROWS)))
            number += 1
        result[f"w{worker}"] = chunks
    return result


@given(assigned=assignments(), per_task=st.sampled_from([1, 100, 5_000, 10**6]), spare=st.integers(0, 60))
@example(assigned={}, per_task=100, spare=1)
@examples(80)
def test_each_chunk_is_in_one_group_of_one_worker(
    assigned: dict[str, list[PlannedChunk]], per_task: int, spare: int
) -> None:
    most = len(assigned) + spare
    groups = make_groups(assigned, per_task, most)
    assert len(groups) <= most
    assert all(groups)
    assert Counter(c.chunk for group in groups for c in group) == Counter(
        c.chunk for chunks in assigned.values() for c in chunks
    )
    for group in groups:
        assert len({c.workers[0] for c in group}) == 1
        assert [c.chunk for c in group] == sorted(c.chunk for c in group)
    first = [group[0].workers[0] for group in groups[: len(assigned)]]
    assert len(set(first)) == len(first), "the first tasks are on different workers"


@given(assigned=assignments(), per_task=st.sampled_from([3_000, 10**5, 10**6]))
@examples(40)
def test_no_task_reads_much_more_than_it_should(assigned: dict[str, list[PlannedChunk]], per_task: int) -> None:
    largest = max(c.rows for chunks in assigned.values() for c in chunks) + CHUNK_OVERHEAD_ROWS
    total = sum(c.rows + CHUNK_OVERHEAD_ROWS for chunks in assigned.values() for c in chunks)
    share = max(per_task, total / (MAX_MAPPED_TASKS - len(assigned)) + 1)
    for group in make_groups(assigned, per_task):
        assert sum(c.rows + CHUNK_OVERHEAD_ROWS for c in group) <= share + largest


@pytest.mark.parametrize(("workers", "chunks"), [(1, 5_000), (1023, 3), (1024, 2), (300, 10), (2, 3_000)])
def test_airflows_limit_holds_for_large_catalogs(workers: int, chunks: int) -> None:
    assigned = {
        f"w{w}": [planned(w * chunks + i, f"w{w}", rows=10**7 if w == 0 else 1) for i in range(chunks)]
        for w in range(workers)
    }
    groups = make_groups(assigned, 1)
    assert workers <= len(groups) <= MAX_MAPPED_TASKS
    assert sum(map(len, groups)) == workers * chunks


@pytest.mark.parametrize(("rows", "groups"), [(10**5, LEAST_GROUPS_PER_WORKER), (1, 1)])
def test_a_table_is_read_by_a_few_tasks_a_worker_when_it_is_worth_it(rows: int, groups: int) -> None:
    assigned = {w: [planned(i + 100 * n, w, rows=rows) for i in range(50)] for n, w in enumerate(("w1", "w2"))}
    assert len(make_groups(assigned, 10**9)) == 2 * groups


def test_group_label() -> None:
    assert group_label((planned(5, "w9", "w1"), planned(8, "w9"))) == "w9 chunks 5..8 (2)"


NAMES = st.text(min_size=1, max_size=6)
CHUNKS = st.builds(
    PlannedChunk,
    st.integers(0, (1 << 31) - 1),
    st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    st.integers(0, 10**12),
    st.dictionaries(NAMES, NAMES, max_size=3),
)
PLANS = st.builds(
    Plan,
    token=NAMES,
    request=st.builds(
        BuildRequest,
        database=NAMES,
        director_table=NAMES,
        rebuild=st.booleans(),
        local=st.booleans(),
        unique_primary_key=st.sampled_from([None, True, False]),
        director_key=st.one_of(st.none(), NAMES),
        dry_run=st.booleans(),
    ),
    conn_id=NAMES,
    index_database=NAMES,
    key_column=NAMES,
    key_type=st.sampled_from(["BIGINT", "INT UNSIGNED"]),
    sub_chunk_type=st.sampled_from(["INT NOT NULL", "BIGINT NULL"]),
    unique=st.booleans(),
    groups=st.lists(st.lists(CHUNKS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    planned_chunks=st.integers(0, 100),
    group_rows=st.integers(1, 100),
    adopted=st.dictionaries(NAMES, st.lists(st.integers(0, 99), max_size=2).map(tuple), max_size=2),
    adopted_chunks=st.integers(0, 100),
    unchecked=st.lists(NAMES, max_size=2).map(tuple),
    started_at=NAMES,
    unlisted=st.lists(st.tuples(st.integers(0, 99), NAMES, st.integers(1, 99)), max_size=2).map(tuple),
)


@given(PLANS)
@examples(80)
def test_a_plan_reads_back_from_json(plan: Plan) -> None:
    again = Plan.from_dict(json.loads(json.dumps(plan.as_dict())))
    assert again == replace(plan, groups=(), group_workers=plan.first_workers)
    for group in plan.groups:
        assert group_from_list(json.loads(json.dumps(group_as_list(group)))) == group


def test_the_types_of_a_plan() -> None:
    plan = make_plan([[planned(1)], [planned(2), planned(3)]], key_type="BIGINT UNSIGNED", adopted_chunks=4)
    assert plan.key.dtype.name == "uint64"
    assert not plan.sub_chunk.nullable
    assert make_plan(sub_chunk_type="INT NULL").sub_chunk.nullable
    assert plan.chunks == 7
