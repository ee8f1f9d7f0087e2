"""The audit of an index: what is missing, surplus or wrong is found, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.report import Report, Status
from airflow_reindex.director.audit import steps
from airflow_reindex.director.audit.request import AuditRequest
from airflow_reindex.director.load import merge
from sandbox.catalog.catalog import CatalogSummary
from sandbox.servers.cluster import Sandbox
from tests.director.auditing import Audit
from tests.director.failing import live
from tests.support.build import Build, Factory, run_sql, tables_of
from tests.support.claims import finish_whole

pytestmark = pytest.mark.usefixtures("clean", "small_slices")


@pytest.fixture
def built(sky: CatalogSummary, build: Factory) -> Build:
    """A live index of the catalog."""
    run = build(sky.spec.database)
    finish_whole(run)
    return run


def change(run: Build, *statements: str) -> None:
    """Tamper with the live index."""
    run_sql(run.sandbox.czar, *(statement.format(live=live(run)) for statement in statements))


def message(report: Report, chunk: int) -> str:
    """What the report says of a chunk."""
    (found,) = [chunks[str(chunk)] for workers in report.error_ext.values() for chunks in workers.values()
                if str(chunk) in chunks]  # fmt: skip
    return found


def test_a_sound_index_is_right(built: Build, sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path) -> None:
    before = tables_of(sandbox, "qservMeta"), tables_of(sandbox, "airflow_reindex")
    report = Audit(sandbox, tmp_path, sky.spec.database).run()
    assert (report.status, report.detail) == (Status.DONE, "")
    assert report.rows == sky.rows
    assert report.count == report.total == len(sky.placement) + 1
    assert report.notes["differences"] == {"missing": 0, "surplus": 0, "wrong": 0}
    assert (tables_of(sandbox, "qservMeta"), tables_of(sandbox, "airflow_reindex")) == before


def test_each_kind_of_damage_is_told_by_chunk(
    built: Build, sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path
) -> None:
    keys, chunks, _ = built.index()
    one, two, three = sorted(sky.placement)[:3]
    lost = [int(key) for key in keys[chunks == one][:7]]
    moved, turned = int(keys[chunks == two][0]), int(keys[chunks == two][1])
    change(
        built,
        f"DELETE FROM {{live}} WHERE objectId IN ({','.join(map(str, lost))})",
        f"UPDATE {{live}} SET chunkId = {three} WHERE objectId = {moved}",
        f"UPDATE {{live}} SET subChunkId = subChunkId + 1 WHERE objectId = {turned}",
        f"INSERT INTO {{live}} VALUES (1, {three}, 1), (2, 999999, 1), (3, NULL, 1)",
    )
    report = Audit(sandbox, tmp_path, sky.spec.database).run()
    assert report.status is Status.FAILED
    assert report.notes["differences"] == {"missing": 7, "surplus": 3, "wrong": 2}
    assert "7 missing, 3 surplus, 2 wrong" in report.detail
    assert message(report, one).startswith("7 row(s) missing in the index, such as ")
    assert all(key in lost for key in map(int, message(report, one).split("such as ")[1].split(", ")))
    assert message(report, two) == (
        f"2 row(s) have another chunk or sub-chunk in the index, such as {', '.join(map(str, sorted([moved, turned])))}"
    )
    assert message(report, three) == "1 row(s) of the index are not in the chunk table, such as 1"
    assert "such as 2" in message(report, 999999)


def test_repeated_keys_are_counted(sky: CatalogSummary, build: Factory, sandbox: Sandbox, tmp_path: Path) -> None:
    run = build(sky.spec.database, unique_primary_key=0)
    finish_whole(run)
    keys, chunks, subs = run.index()
    row = f"({keys[0]}, {chunks[0]}, {subs[0]})"
    change(run, f"INSERT INTO {{live}} VALUES {row}, {row}")
    report = Audit(sandbox, tmp_path, sky.spec.database, unique_primary_key=0).run()
    assert report.notes["differences"] == {"missing": 0, "surplus": 2, "wrong": 0}


@pytest.mark.parametrize("sample", [1, 12])
def test_a_key_with_most_of_the_rows_comes_in_pieces(
    sky: CatalogSummary,
    build: Factory,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sample: int,
) -> None:
    for worker, server in sandbox.workers.items():
        chunks = sorted(chunk for chunk, where in sky.placement.items() if worker in where)
        run_sql(
            server, *(f"UPDATE `{sky.spec.database}`.`Object_{c}` SET objectId = 7 WHERE objectId % 4" for c in chunks)
        )
    run = build(sky.spec.database, unique_primary_key=0)
    finish_whole(run)
    keys, _, _ = run.index()
    assert len(keys) // 2 < (keys == 7).sum() < len(keys) - 3
    change(run, "DELETE FROM {live} WHERE objectId = 7 LIMIT 10", "DELETE FROM {live} WHERE objectId <> 7 LIMIT 3")
    monkeypatch.setattr(steps, "rows_that_fit", lambda *_: 300)
    monkeypatch.setattr(merge, "PIECE_ROWS", 100)
    report = Audit(sandbox, tmp_path, sky.spec.database, unique_primary_key=0, sample=sample).run()
    found = report.notes["differences"]
    assert found["missing"] + found["wrong"] == 13 if sample == 1 else 1 <= found["missing"] + found["wrong"] <= 13
    assert found["surplus"] == 0


def test_a_chunk_that_cannot_be_read_is_told_and_the_others_are_compared(
    built: Build, sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path
) -> None:
    gone, other = sorted(sky.placement)[:2]
    (worker,) = sky.placement[gone]
    run_sql(sandbox.workers[worker], f"DROP TABLE `{sky.spec.database}`.`Object_{gone}`")
    keys, chunks, _ = built.index()
    change(built, f"DELETE FROM {{live}} WHERE objectId = {keys[chunks == other][0]}")
    report = Audit(sandbox, tmp_path, sky.spec.database).run()
    assert report.status is Status.FAILED
    assert "errno: 1146" in message(report, gone)
    assert report.notes["differences"] == {"missing": 1, "surplus": 0, "wrong": 0}, "the unread chunk is not judged"


def test_a_sample_compares_some_chunks(built: Build, sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path) -> None:
    keys, chunks, _ = built.index()
    change(built, "DELETE FROM {live}")
    assert len(keys) == sky.rows
    report = Audit(sandbox, tmp_path, sky.spec.database, sample=3, seed=5).run()
    assert (report.total, report.failed, report.notes["sampled"]) == (3, 3, True)
    told = [chunk for found in report.error_ext["Object"].values() for chunk in found]
    assert report.notes["differences"]["missing"] == sum(int((chunks == int(chunk)).sum()) for chunk in told)
    again = Audit(sandbox, tmp_path / "again", sky.spec.database, sample="3", seed=5).run()
    assert again.error_ext == report.error_ext, "the seed chooses"


def test_a_sample_finds_rows_that_no_chunk_has(
    built: Build, sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "BLOCK_ROWS", 10_000)
    monkeypatch.setattr(steps, "BLOCKS", 12)
    keys, _, _ = built.index()
    change(built, f"INSERT INTO {{live}} VALUES ({keys[-1] - 1}, {min(sky.placement)}, 1), ({keys[-1] - 2}, 999999, 1)")
    report = Audit(sandbox, tmp_path, sky.spec.database, sample=1.0 / 13, seed=1).run()
    assert str(keys[-1] - 1) in message(report, min(sky.placement))
    assert str(keys[-1] - 2) in message(report, 999999)


def test_an_index_that_is_replaced_meanwhile_is_no_verdict(
    built: Build, sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path
) -> None:
    audit = Audit(sandbox, tmp_path, sky.spec.database)
    audit.run()
    index = live(built)
    change(
        built,
        f"CREATE TABLE qservMeta.other LIKE {index}",
        "DO SLEEP(1.1)",
        f"RENAME TABLE {index} TO qservMeta.gone, qservMeta.other TO {index}",
        f"ALTER TABLE {index} COMMENT 'made anew', ALGORITHM=COPY",
    )
    report = audit.compare()
    assert report.status is Status.FAILED
    assert "replaced while it was compared" in report.detail


def test_without_an_index_nothing_is_read(sky: CatalogSummary, sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"there is no index 'sky.*__Object' in 'qservMeta'"):
        Audit(sandbox, tmp_path, sky.spec.database).run()


@pytest.mark.parametrize("sample", [0, -1, "x", 1.5, None])
def test_a_sample_that_makes_no_sense_is_refused(sample: object) -> None:
    with pytest.raises(RequestError, match="sample takes"):
        AuditRequest.parse({"database": "a", "director_table": "b", "sample": sample}, "run")
