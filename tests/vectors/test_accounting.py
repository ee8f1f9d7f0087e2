"""The report accounts for every item, however the run ended; transient faults cost nothing twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError, RequestError, TransientError
from airflow_reindex.core.task_records import TASKS, TaskRecord
from airflow_reindex.vectors.account import FAILED, read_failed
from airflow_reindex.vectors.embedding.bisect import PROBE
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.model.loader import Content
from airflow_reindex.vectors.report import UNDONE
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, rows_of, spec_of, texts


def listed(run: Reindex) -> list[FailedItem]:
    return list(read_failed(run.folder))


def check_undone(run: Reindex, report: dict[str, Any], first: int, last: int, words: str) -> None:
    """Exactly these items are listed, each with the preset detail; list, figures and error map agree."""
    keys = [f"o{number:06}" for number in range(first, last)]
    found = listed(run)
    assert [item.object_id for item in found] == keys
    assert report["status"] == "failed"
    assert report["failed"] == len(keys)
    assert report["count"] + report["failed"] == report["total"]
    for item in found:
        assert item.failure_stage == "other"
        assert item.detail.startswith(f"{UNDONE}: ")
        assert len(item.detail) <= 1500
        assert words in item.detail
    errors = report["error_ext"]
    assert errors.keys() == ({OLD} if keys else set())
    assert sorted(key for window in errors.get(OLD, {}).values() for key in window) == keys


def started(run: Reindex, number: int, state: str = "failed") -> None:
    """A window whose task was killed: it has a record without an end."""
    record = TaskRecord("reindex", number, run.plan_made.token, started_at="2026-01-01T00:00:00Z")
    run.folder.write_json(f"{TASKS}/reindex-{number}.json", vars(record))
    run.task_states[f"reindex_{number}"] = state


def test_the_preset_detail_is_embedding_studios() -> None:
    assert UNDONE == "Unable to create upsertion task for item"


@pytest.mark.parametrize("state", ["failed", "upstream_failed", "none", "skipped", "removed"])
def test_a_window_that_left_no_word(admin: Admin, reindex: Factory, state: str) -> None:
    """Killed before it wrote anything, or never started."""
    make_source(admin, texts(40))
    run = reindex()
    run.plan()
    run.window(0)
    run.window(2)
    if state != "none":
        run.task_states["reindex_1"] = state
    run.task_states["verify"] = "upstream_failed"
    report = run.report()
    assert (report["total"], report["count"]) == (40, 24)
    check_undone(run, report, 16, 32, f"the task reindex[1] ended as '{state}' and left no error")
    assert list(report["error_ext"][OLD]) == ["offset 16, limit 16"]
    assert report["error_ext"][OLD]["offset 16, limit 16"]["o000016"].startswith(f"other: {UNDONE}")


def test_a_window_that_was_killed_at_work(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(40))
    run = reindex()
    run.plan()
    run.window(1)
    started(run, 0)
    report = run.report()
    assert [item.object_id for item in listed(run)] == [f"o{n:06}" for n in [*range(16), *range(32, 40)]]
    assert report["detail"] == listed(run)[0].detail.removeprefix(f"{UNDONE}: ")


def test_a_window_that_was_killed_when_it_was_tried_again(admin: Admin, reindex: Factory) -> None:
    """What its first try and the verification said no longer holds."""
    make_source(admin, texts(40))
    run = reindex(max_failed=0)
    run.plan()
    run.windows()
    run.least_recall = 1.1
    with pytest.raises(DataError, match="the ANN index finds"):
        run.verify()
    assert (run.report()["failed"], listed(run)) == (0, [])
    # The server hangs up on the first request of the second try, which is killed then.
    run.server.faults.append(Fault(status=503))
    admin.execute("UPDATE dbo_old_model SET payload = '{\"text\": \"new\"}' WHERE object_id = 'o000020'")
    with pytest.raises(TransientError):
        run.window(1)
    started(run, 1)
    check_undone(run, run.report(), 16, 32, "reindex[1] ended as 'failed'")


@pytest.mark.parametrize("length", [10, 5000])
def test_a_window_that_raised(admin: Admin, reindex: Factory, length: int) -> None:
    class Away(PayloadLoader):
        def load(self, items: Sequence[Item]) -> list[Content | DataError]:
            if any(item.object_id == "o000020" for item in items):
                raise TransientError("x" * length + " is away")
            return super().load(items)

    make_source(admin, texts(40))
    run = reindex()
    run.loader = Away(PayloadSettings(fields=("text",)))
    run.plan()
    run.window(0)
    with pytest.raises(TransientError):
        run.window(1)
    run.window(2)
    report = run.report()
    check_undone(run, report, 16, 32, "x is away")
    assert report["detail"].endswith("x is away")
    assert len(report["detail"]) <= 1500


def test_no_window_ran(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(40))
    run = reindex()
    run.plan()
    report = run.report()
    assert (report["total"], report["count"], report["rows"]) == (40, 0, 0)
    check_undone(run, report, 0, 40, "ended as 'none'")


def test_more_failures_than_a_report_quotes(admin: Admin, reindex: Factory) -> None:
    rows: dict[str, Any] = {**texts(130), **dict.fromkeys(list(texts(120)))}
    make_source(admin, rows)
    run = reindex(batch_size=50)
    report = run.run()
    assert (report["status"], report["total"], report["count"], report["failed"]) == ("done", 130, 10, 120)
    assert len(report["failed_items"]) == 100
    assert sum(map(len, report["error_ext"][OLD].values())) == 100
    assert [item.object_id for item in listed(run)] == list(texts(120)), "the list has all"
    assert report["notes"]["failed_items"] == run.folder.path(FAILED)
    assert run.folder.path(FAILED).endswith("failed.ndjson")


def test_the_list_is_one_json_object_a_line(admin: Admin, reindex: Factory) -> None:
    rows: dict[str, Any] = {**texts(20), "o000003": None, "o000017": {"text": 7}, "über\n": {}}
    make_source(admin, rows)
    run = reindex()
    report = run.run()
    lines = Path(run.folder.path(FAILED)).read_text().splitlines()
    values = [json.loads(line) for line in lines]
    assert values == report["failed_items"]
    assert values[0] == {
        "object_id": "o000003",
        "failure_stage": "on_downloading",
        "detail": "the payload is NULL.",
        "collection": OLD,
        "item_info": {"file": "o000003"},
        "window": "offset 0, limit 16",
    }
    assert report["error_ext"] == {
        OLD: {
            "offset 0, limit 16": {"o000003": "on_downloading: the payload is NULL."},
            "offset 16, limit 5": {
                "o000017": "on_downloading: the field 'text' of the payload holds no text, but int.",
                "über\n": "on_downloading: the payload has no field 'text'.",
            },
        }
    }
    assert report["progress"] == 1.0


def test_an_item_that_fails_anew_is_listed_with_its_latest_reason(admin: Admin, reindex: Factory) -> None:
    make_source(admin, {**texts(20), "o000003": None})
    run = reindex()
    run.plan()
    run.windows()
    admin.execute("UPDATE dbo_old_model SET payload = '{}' WHERE object_id = 'o000003'")
    run.verify()
    run.report()
    (item,) = listed(run)
    assert (item.detail, item.window) == ("the payload has no field 'text'.", "offset 0, limit 16")
    assert item.item_info == {"file": "o000003"}


def test_a_verification_that_died(admin: Admin, reindex: Factory) -> None:
    make_source(admin, {**texts(40), "o000003": None})
    run = reindex()
    run.plan()
    run.windows()
    run.task_states["verify"] = "failed"
    report = run.report()
    assert (report["status"], report["total"], report["count"], report["rows"]) == ("failed", 40, 39, 0)
    assert "the task verify ended as 'failed' and left no error" in report["detail"]
    assert run.failed() == {"o000003": "on_downloading"}


def test_vectors_that_cannot_be_made_again_are_listed(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """Somebody removes an item's vectors, and the model refuses its text by now."""
    make_source(admin, texts(20))
    run = reindex()
    run.plan()
    run.windows()
    admin.execute("DELETE FROM dbop_new_model WHERE object_id IN ('o000007', 'o000008')")
    server.faults.append(Fault(contains="number 7", status=400))
    run.verify()
    report = run.report()
    assert (report["status"], report["total"], report["count"]) == ("done", 20, 19)
    assert run.failed() == {"o000007": "on_inference"}
    assert rows_of(admin, OLD).keys() - rows_of(admin, NEW).keys() == {"o000007"}


@pytest.mark.parametrize(("error", "status"), [(RequestError, "refused"), (TransientError, "failed")])
def test_a_plan_that_raised(admin: Admin, reindex: Factory, error: type[Exception], status: str) -> None:
    run = reindex()
    if error is TransientError:
        make_source(admin, texts(1))
        run.specs[NEW] = spec_of(NEW, run.server, url="http://127.0.0.1:9/v1")
    with pytest.raises(error) as caught:
        run.plan()
    run.task_states["plan"] = "failed"
    report = run.report()
    assert (report["status"], report["total"], report["failed_items"], report["error_ext"]) == (status, 0, [], {})
    assert report["detail"] == str(caught.value)


def test_a_plan_that_was_killed(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(20))
    run = reindex()
    run.task_states["plan"] = "failed"
    assert run.report()["detail"].startswith("the task plan ended as 'failed' and left no error")
    # It was cleared, and killed: the plan of its first life is none.
    run.run()
    run.task_states["plan"] = "failed"
    assert (run.report()["status"], run.report()["total"]) == ("failed", 0)


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"status": 500}, {"drop": True}, {"body": "{"}])
def test_a_server_that_recovers(admin: Admin, reindex: Factory, server: EmbeddingServer, fault: dict[str, Any]) -> None:
    make_source(admin, texts(40))
    run = reindex()
    run.plan()
    server.faults.append(Fault(times=2, **fault))
    run.windows()
    run.verify()
    report = run.report()
    assert (report["status"], report["count"], report["failed"]) == ("done", 40, 0)
    assert set(run.embedded().values()) == {1}, "none was embedded twice"


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"drop": True}])
def test_a_server_that_is_away_for_a_window(
    admin: Admin, reindex: Factory, server: EmbeddingServer, fault: dict[str, Any]
) -> None:
    """The window fails as a whole and blames no item; tried again it does only what is left."""
    make_source(admin, texts(64))
    run = reindex(batch_size=64)
    run.specs[NEW] = spec_of(NEW, server, batch_size=4, in_flight=1)
    run.plan()
    # From a moment on it answers nothing, not even a harmless text.
    server.faults += [Fault(contains=f"number {number}", **fault) for number in range(40, 64)]
    server.faults.append(Fault(contains="quick brown fox", **fault))
    with pytest.raises(TransientError):
        run.window(0)
    landed = rows_of(admin, NEW).keys()
    assert landed == {f"o{number:06}" for number in range(40)}
    assert run.report()["failed"] == 64, "until it is tried again, the whole window counts as undone"
    server.faults.clear()
    run.window(0)
    run.verify()
    report = run.report()
    assert (report["status"], report["count"], report["failed"]) == ("done", 64, 0)
    counts = {text: count for text, count in run.embedded().items() if text.startswith("text")}
    assert len(counts) == 64
    assert set(counts.values()) == {1}, "what had landed is not embedded again"


@pytest.mark.parametrize("fault", [{"status": 401}, {"status": 404}])
def test_a_key_that_expires_is_no_items_fault(
    admin: Admin, reindex: Factory, server: EmbeddingServer, fault: dict[str, Any]
) -> None:
    make_source(admin, texts(20))
    run = reindex()
    run.plan()
    server.faults.append(Fault(**fault))
    with pytest.raises(RequestError):
        run.window(0)
    run.task_states["reindex_1"] = "upstream_failed"
    report = run.report()
    assert report["count"] == 0
    assert listed(run)[0].detail.startswith(f"{UNDONE}: ")
    assert rows_of(admin, NEW) == {}


def test_only_the_failed_items_of_another_run(admin: Admin, reindex: Factory) -> None:
    """The windows do these only; what else has changed is left to the verification."""
    bad = ["o000003", "o000017", "o000030"]
    make_source(admin, {**texts(40), **dict.fromkeys(bad)})
    first = reindex(batch_size=4)
    first.run()
    admin.execute('UPDATE dbo_old_model SET payload = \'{"text": "mended"}\' WHERE object_id = ANY(%s)', (bad[:2],))
    admin.execute("UPDATE dbo_old_model SET payload = '{\"text\": \"changed\"}' WHERE object_id = 'o000005'")
    second = reindex("second", batch_size=2, force_takeover=True)
    second.listed = [item.object_id for item in read_failed(first.folder)] + ["gone since"]
    assert second.plan() == {"items": 3, "windows": 2}
    before = first.embedded()
    second.windows()
    assert {**second.embedded(), PROBE: 0} == {**before, "mended": 2, PROBE: 0}
    report = second.report()
    assert (report["total"], report["count"], report["failed"]) == (3, 2, 1)
    second.verify()
    report = second.report()
    assert (report["status"], report["total"], report["count"]) == ("done", 40, 39)
    assert second.failed() == {"o000030": "on_downloading"}
    assert second.embedded()["changed"] == 1
    assert rows_of(admin, NEW) == {k: row for k, row in rows_of(admin, OLD).items() if k != "o000030"}
