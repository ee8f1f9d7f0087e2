"""The real planner with 20 billion rows in 146,332 chunks: every limit holds, on paper."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from airflow_reindex.core.memory import rows_that_fit
from airflow_reindex.core.windows import MAX_MAPPED_TASKS
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.load import merge
from airflow_reindex.director.model.inventory import TableInfo
from airflow_reindex.director.model.plan import Plan, assign, group_as_list, group_label, make_groups, row_group_rows
from airflow_reindex.director.model.runs import ROW_GROUPS_IN_FILE, SAMPLES, Manifest, StagedChunk, StagedFile
from airflow_reindex.director.model.split import SLICE_ROWS, RunFiles, Split, make_split
from airflow_reindex.director.mysql.types import Checksum
from airflow_reindex.director.planning.estimate import Build, estimate, main
from tests.support.samples import TOKEN, make_plan

ROWS, CHUNKS, WORKERS = 20_000_000_000, 146_332, 40
MEMORY, ROWS_PER_TASK = 512 << 20, 5_000_000
RUN_ROWS = rows_that_fit(MEMORY, run_buffer.BYTES_PER_ROW)
WINDOW_ROWS = rows_that_fit(MEMORY, merge.BYTES_PER_ROW)

pytestmark = pytest.mark.scale


@pytest.fixture(scope="module", params=[1, 3], ids=["one replica", "three replicas"])
def plan(request: pytest.FixtureRequest) -> Plan:
    """A plan of simulated chunk tables, the largest a hundred times as large as the mean."""
    random = np.random.default_rng(1)
    sizes = random.lognormal(0, 1, CHUNKS)
    sizes = (sizes * (ROWS / sizes.sum())).astype(np.int64)
    workers = [f"worker-{i:02d}" for i in range(WORKERS)]
    placement = {
        chunk: tuple(workers[(chunk + copy) % WORKERS] for copy in range(request.param)) for chunk in range(CHUNKS)
    }
    mark = "MyISAM|136678|4100340|2026-01-01 00:00:00|2026-01-01 00:00:00"
    inventory: dict[str, dict[int, TableInfo]] = {worker: {} for worker in workers}
    for chunk, placed in placement.items():
        for worker in placed:
            inventory[worker][chunk] = TableInfo(int(sizes[chunk]), mark)
    groups = make_groups(assign(placement, inventory, workers), ROWS_PER_TASK)
    return replace(make_plan(groups), group_rows=row_group_rows(ROWS, RUN_ROWS, WINDOW_ROWS))


def test_the_groups(plan: Plan) -> None:
    assert WORKERS <= len(plan.groups) <= MAX_MAPPED_TASKS
    chunks = [chunk.chunk for group in plan.groups for chunk in group]
    assert sorted(chunks) == list(range(CHUNKS))
    rows = np.array([sum(chunk.rows for chunk in group) for group in plan.groups])
    assert rows.max() < 1.5 * rows.mean(), "a straggler would hold all up"
    assert all(len({chunk.workers[0] for chunk in group}) == 1 for group in plan.groups)


def test_what_airflow_and_the_staging_folder_have_to_hold(plan: Plan) -> None:
    items = [{"token": TOKEN, "group": i, "label": group_label(group)} for i, group in enumerate(plan.groups)]
    assert max(len(json.dumps(item)) for item in items) < 256
    assert len(json.dumps(items)) < 256_000
    assert len(json.dumps(plan.as_dict())) < 20_000, "each task reads it: it grows with the tasks, not with the chunks"
    assert max(len(json.dumps(group_as_list(group))) for group in plan.groups) < 1_000_000, "a task reads its own group"


@pytest.fixture(scope="module")
def staged() -> list[Manifest]:
    """Manifests as the extract tasks would leave them: random keys, runs as large as memory allows."""
    random = np.random.default_rng(2)
    group_rows = row_group_rows(ROWS, RUN_ROWS, WINDOW_ROWS)
    part_rows, count = ROW_GROUPS_IN_FILE * group_rows, -(-ROWS // RUN_ROWS)
    step, result = RUN_ROWS // SAMPLES, []
    for run in range(count):
        sample = np.sort(random.integers(0, 1 << 62, SAMPLES)).tolist()
        files, parts = [], -(-RUN_ROWS // part_rows)
        for part in range(parts):
            keys = sample[part * SAMPLES // parts : (part + 1) * SAMPLES // parts]
            low = sample[part * SAMPLES // parts - 1] + 1 if part else 0
            high = keys[-1] if part + 1 < parts else 1 << 62
            files.append(StagedFile(f"runs/g{run:04d}-{part:02d}.parquet", part_rows, low, high, step, tuple(keys), 1))
        chunk = StagedChunk(run, "worker-01", "mark", Checksum(RUN_ROWS))
        result.append(Manifest(f"runs/g{run:04d}.json", TOKEN, run, "layout", (chunk,), tuple(files)))
    return result


def test_the_key_ranges(staged: list[Manifest]) -> None:
    split = make_split(TOKEN, staged, ROWS_PER_TASK)
    assert abs(split.rows - ROWS) < RUN_ROWS
    assert len(split.ranges) == MAX_MAPPED_TASKS
    for left, right in pairwise(split.ranges):
        assert left.bounds[-1] == right.bounds[0]
    rows = np.array([r.rows for r in split.ranges])
    assert rows.max() < 1.1 * rows.mean()
    # The keys are spread evenly, so a range's width tells how many rows it has, whatever the samples say.
    edges = [bound for r in split.ranges for bound in r.bounds[1:]][:-1]
    inner = np.diff(np.array([0, *(edge for edge in edges if edge is not None), 1 << 62], float)) / (1 << 62) * ROWS
    assert abs(inner.mean() - SLICE_ROWS) < 0.1 * SLICE_ROWS
    assert inner.max() < 8 * SLICE_ROWS, "a transaction stays short"
    widths = np.diff(np.array([r.bounds[0] or 0 for r in split.ranges] + [1 << 62], float)) / (1 << 62) * ROWS
    assert widths.max() < 1.3 * widths.mean()
    text = json.dumps(split.as_dict())
    assert len(text) < 4_000_000
    assert Split.from_dict(json.loads(text)) == split


def test_a_window_reads_little_more_than_it_needs(staged: list[Manifest]) -> None:
    source = RunFiles.of(staged)
    split = make_split(TOKEN, staged, ROWS_PER_TASK)
    key_range = split.ranges[500]
    slices = len(key_range.bounds) - 1
    step = max(1, int(merge.FILL * WINDOW_ROWS * slices / key_range.rows))
    low, high = key_range.bounds[0], key_range.bounds[min(step, slices)]
    touched = list(source.between(low, high))
    assert len(staged) <= len(touched) <= 1.3 * len(staged), "of each run one file, of few two"
    # Of each run the row groups over both ends are decoded besides what is wanted.
    decoded = len(staged) * 2 * row_group_rows(ROWS, RUN_ROWS, WINDOW_ROWS) + WINDOW_ROWS
    assert decoded < 4 * WINDOW_ROWS


def test_the_estimate_follows_the_planner(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(Build(rows=ROWS, chunks=CHUNKS, workers=WORKERS, czar_cores=16))
    assert abs(found.extract_tasks - len(plan.groups)) <= WORKERS
    assert found.load_tasks == MAX_MAPPED_TASKS
    assert found.row_group_rows == plan.group_rows
    assert found.task_bytes <= MEMORY
    assert found.staged_files < 200_000
    arguments = ["--rows", "20e9", "--chunks", str(CHUNKS), "--workers", str(WORKERS), "--czar-cores", "16"]
    main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["load_tasks"] == found.load_tasks
    main(arguments)
    assert "mapped load tasks" in capsys.readouterr().out
