"""A run that is cleared has a new life: nothing that was said in an earlier one is said of it."""

from __future__ import annotations

import pytest

from airflow_reindex.core.failures import ClaimLostError, TransientError
from airflow_reindex.core.run_outcome import report_stands, task_states
from airflow_reindex.core.task_records import task_records
from airflow_reindex.vectors.account import FAILED, OUTCOMES
from airflow_reindex.vectors.embedding.backends import http
from airflow_reindex.vectors.model.plan import ITEMS
from airflow_reindex.vectors.report import STEPS
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.collection_contents import finish
from tests.support.reindex import Admin, Factory, Reindex, make_source, texts


@pytest.fixture
def done(admin: Admin, reindex: Factory) -> Reindex:
    """A run that has ended, one of whose items failed."""
    make_source(admin, {**texts(40), "o000003": None})
    run = reindex()
    assert run.run()["status"] == "done"
    return run


def tidy(run: Reindex) -> None:
    """What the last task does when a run is done."""
    finish(run)
    run.folder.remove(ITEMS)
    run.folder.remove(OUTCOMES)


def test_a_claim_that_was_given_back_is_nobody_s(done: Reindex) -> None:
    tidy(done)
    with pytest.raises(ClaimLostError, match="given back when this run had ended") as caught:
        done.window(0)
    assert "took over" not in str(caught.value)


def test_who_took_over_is_named(done: Reindex, reindex: Factory) -> None:
    reindex("heir", force_takeover=True).plan()
    with pytest.raises(ClaimLostError, match="another run took over, run 'heir'"):
        done.window(0)


def test_a_window_that_fails_after_the_run_was_done(done: Reindex) -> None:
    """Its account is gone: the report says so, and the list of failed items stays for who needs it."""
    first = done.report()
    tidy(done)
    with pytest.raises(ClaimLostError):
        done.window(0)
    done.task_states["verify"] = "upstream_failed"
    states = task_states(done.task_states, STEPS)
    assert not report_stands(first, states, task_records(done.folder))
    report = done.report()
    assert (report["status"], report["total"], report["rows"]) == ("failed", 0, 0)
    assert report["detail"].startswith("reindex[0]: this run no longer holds the claim")
    assert FAILED in done.folder.names()


def test_the_last_task_alone_finds_its_report_again(done: Reindex) -> None:
    first = done.report()
    tidy(done)
    assert report_stands(first, task_states(done.task_states, STEPS), task_records(done.folder))
    # One that was set to success by hand has not succeeded.
    with pytest.raises(ClaimLostError):
        done.window(0)
    done.task_states["reindex_0"] = "success"
    assert not report_stands(first, task_states(done.task_states, STEPS), task_records(done.folder))


def test_a_proof_of_before_proves_nothing(
    admin: Admin, done: Reindex, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was done, but the last task died before it tidied up; then a window is cleared, and fails."""
    monkeypatch.setattr(http, "FIRST_WAIT", 0.001)
    admin.execute("UPDATE dbo_old_model SET payload = '{\"text\": \"new\"}' WHERE object_id = 'o000003'")
    server.faults.append(Fault(status=503))
    with pytest.raises(TransientError):
        done.window(0)
    done.task_states["verify"] = "upstream_failed"
    report = done.report()
    assert (report["status"], report["rows"]) == ("failed", 0)
    assert report["detail"].startswith("reindex[0]: ")
