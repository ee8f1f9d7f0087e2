"""Chunk tables that change between their reading and the swap: told, refused, or read again."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.core.run_outcome import States
from airflow_reindex.director.model.request import BuildRequest, ChangedChunks
from airflow_reindex.director.publish import proof
from airflow_reindex.director.publish.rereading import Rereader
from airflow_reindex.director.report import make_report
from sandbox.servers.cluster import Sandbox
from tests.director.failing import assert_old_index, change, make_old_index, silence, worker_of
from tests.director.sky import Sky
from tests.support.build import Build, Factory, assert_same, run_sql

pytestmark = pytest.mark.usefixtures("clean", "small_slices")
STATES: dict[str, States] = {step: {-1: "success"} for step in ("plan", "extract", "split", "load", "publish")}

DELETE, TRUNCATE = "DELETE FROM {table} LIMIT 10", "TRUNCATE TABLE {table}"
INSERT = "INSERT INTO {table} SELECT * FROM (SELECT * FROM {table} LIMIT 1) AS one"
NEW_KEY = "UPDATE {table} SET objectId = -objectId - 1 LIMIT 1"
MOVE = "UPDATE {table} SET subChunkId = subChunkId + 1 LIMIT 20"


@pytest.fixture(params=["MyISAM", "InnoDB", "Aria"])
def engine(request: pytest.FixtureRequest, changing: Sky) -> str:
    """The engine of the chunks that change."""
    if request.param != "MyISAM":
        for chunk in changing.chunks[:3]:
            change(changing.sandbox, changing.made, chunk, f"ALTER TABLE {{table}} ENGINE={request.param}")
    return str(request.param)


def loaded(build: Factory, changing: Sky, **params: Any) -> Build:
    """A build up to its loads, over an old index."""
    run = build(changing.made.spec.database, rebuild=1, **params)
    run.rows_per_task = 1_500
    make_old_index(run)
    run.to_load()
    run.load_all()
    return run


def report_of(run: Build) -> dict[str, Any]:
    """What the report says of changed chunks."""
    report, failures = make_report(run.folder, "run", STATES, "a", "b")
    assert failures == []
    return dict(report.as_dict()["notes"].get("changed_chunks", {}))


def alter(changing: Sky, *statements: str) -> list[int]:
    """Change one chunk a statement; their numbers."""
    chunks = changing.chunks[: len(statements)]
    for chunk, statement in zip(chunks, statements, strict=True):
        change(changing.sandbox, changing.made, chunk, statement)
    return sorted(chunks)


def test_nothing_has_changed(changing: Sky, build: Factory) -> None:
    run = loaded(build, changing)
    run.publish()
    assert report_of(run) == {}


def test_changes_are_named(engine: str, changing: Sky, build: Factory) -> None:
    run, rows = loaded(build, changing), changing.rows()
    # InnoDB keeps no number of rows, but tells when a table was written.
    changed = alter(changing, DELETE, TRUNCATE, NEW_KEY if engine == "InnoDB" else INSERT)
    run.publish()
    assert_same(run.index(), rows)
    found = report_of(run)
    assert (found["policy"], found["count"]) == ("warn", 3)
    assert [one["chunk"] for one in found["chunks"]] == changed
    assert [one["worker"] for one in found["chunks"]] == [worker_of(changing.made, chunk) for chunk in changed]


def test_changes_forbid_the_swap(changing: Sky, build: Factory) -> None:
    run = loaded(build, changing, changed_chunks="fail")
    (chunk,) = alter(changing, DELETE)
    with pytest.raises(DataError, match=f"1 chunk table.s. changed after they were read; first: chunk {chunk}"):
        run.publish()
    assert_old_index(run)


def test_a_table_that_is_gone(changing: Sky, build: Factory) -> None:
    run = loaded(build, changing, changed_chunks="fail")
    alter(changing, "DROP TABLE {table}")
    with pytest.raises(DataError, match="the table is gone"):
        run.publish()
    assert_old_index(run)


@pytest.mark.parametrize("local", [0, 1])
def test_changed_chunks_are_read_again(changing: Sky, build: Factory, local: int) -> None:
    run = loaded(build, changing, changed_chunks="reread", local=local)
    changed = alter(changing, DELETE, TRUNCATE, NEW_KEY, MOVE, NEW_KEY.replace("-objectId - 1", "objectId + (1 << 61)"))
    published = run.publish()
    rows = changing.rows()
    assert_same(run.index(), rows)
    assert published.rows == len(rows[0])
    found = report_of(run)
    assert (found["policy"], found["count"]) == ("reread", 5)
    assert [one["chunk"] for one in found["chunks"]] == changed


def test_rows_that_come_twice_after_all(changing: Sky, build: Factory) -> None:
    run = loaded(build, changing, changed_chunks="reread")
    alter(changing, INSERT)
    with pytest.raises(DataError):
        run.publish()
    assert_old_index(run)


def test_a_crash_between_reading_again_and_the_swap(
    changing: Sky, build: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loaded(build, changing, changed_chunks="reread")
    alter(changing, DELETE, NEW_KEY)
    with monkeypatch.context() as patch:
        patch.setattr(proof.Proof, "_verified", _killed)
        with pytest.raises(KeyboardInterrupt):
            run.publish()
    assert_old_index(run)
    alter(changing, MOVE, MOVE, MOVE)
    run.publish()
    assert_same(run.index(), changing.rows())


def test_chunks_that_keep_changing(changing: Sky, build: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = loaded(build, changing, changed_chunks="reread"), Rereader.run

    def reread(self: Rereader, *args: Any) -> Any:
        result = real(self, *args)
        alter(changing, DELETE)
        return result

    alter(changing, DELETE)
    monkeypatch.setattr(Rereader, "run", reread)
    with pytest.raises(TransientError, match="kept changing"):
        run.publish()
    assert_old_index(run)


@pytest.mark.parametrize("policy", ["warn", "fail", "reread"])
def test_a_worker_that_does_not_tell(changing: Sky, build: Factory, policy: str) -> None:
    run = loaded(build, changing, changed_chunks=policy)
    worker = worker_of(changing.made, changing.chunks[0])
    silence(run, worker)
    if policy == "warn":
        run.publish()
        assert report_of(run)["not_compared"] == {worker: "error: Can't connect, errno: 2003"}
        return
    with pytest.raises(DataError if policy == "fail" else TransientError, match=f"worker '{worker}' does not tell"):
        run.publish()
    assert_old_index(run)


def test_policies() -> None:
    names = {"database": "a", "director_table": "b"}
    assert BuildRequest.parse(names).changed_chunks is ChangedChunks.WARN
    assert BuildRequest.parse({**names, "changed_chunks": " Fail"}).changed_chunks is ChangedChunks.FAIL
    with pytest.raises(RequestError, match="changed_chunks takes one of warn, fail, reread, not 'no'"):
        BuildRequest.parse({**names, "changed_chunks": "no"})


def test_pairs_of_rows_that_change_in_the_shadow_table(changing: Sky, build: Factory, sandbox: Sandbox) -> None:
    one, other = changing.chunks[:2]
    change(sandbox, changing.made, one, "INSERT INTO {table} SELECT * FROM {table} LIMIT 1")
    run = loaded(build, changing, unique_primary_key=0)
    key = "(SELECT objectId FROM (SELECT objectId FROM {t} GROUP BY 1 HAVING COUNT(*) = 2) AS twice)"
    (shadow,) = (name for name in run.working_tables() if name.startswith("shadow_"))
    table = f"airflow_reindex.`{shadow}`"
    run_sql(sandbox.czar, f"UPDATE {table} SET chunkId = {other} WHERE objectId = {key.format(t=table)}")
    with pytest.raises(DataError, match="or their contents differ"):
        run.publish()
    assert_old_index(run)


def _killed(*_: object) -> int:
    raise KeyboardInterrupt
