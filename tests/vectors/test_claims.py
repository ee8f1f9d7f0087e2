"""Two runs and one collection: one of them waits, is refused, or has lost its claim and changes nothing more."""

from __future__ import annotations

import threading

import pytest

from airflow_reindex.core.failures import ClaimLostError, ConflictError, ReindexError
from airflow_reindex.vectors import steps
from airflow_reindex.vectors.planning import planning
from sandbox.servers.embedding_server import EmbeddingServer
from tests.support.collection_contents import add_item, assert_moved, finish, remove_item, text_of
from tests.support.reindex import NEW, Admin, Factory, Reindex, make_source, rows_of, texts
from tests.support.wait import wait_until


@pytest.fixture(autouse=True)
def source(admin: Admin) -> None:
    """Three windows."""
    make_source(admin, texts(40))


@pytest.fixture
def third(server: EmbeddingServer) -> str:
    """A third model."""
    server.models["third_model"] = 8
    return "third_model"


def age(admin: Admin, seconds: float) -> None:
    """Let all owners have been silent for so long."""
    admin.execute("UPDATE airflow_reindex.claims SET alive_at = clock_timestamp() - %s * interval '1 s'", (seconds,))


def owners(admin: Admin) -> list[str]:
    """The runs that hold claims."""
    return [run for (run,) in admin.execute("SELECT run_id FROM airflow_reindex.claims").fetchall()]


@pytest.mark.parametrize("state", ["success", "failed"])
def test_the_claim_of_a_run_that_has_ended_is_taken_over(admin: Admin, reindex: Factory, state: str) -> None:
    reindex("first").plan()
    second = reindex("second")
    second.states["reindex_collection", "first"] = state
    assert second.run()["status"] == "done"
    assert owners(admin) == ["second"]


def test_a_silent_run_is_taken_over_only_after_the_time_out(admin: Admin, reindex: Factory) -> None:
    reindex("first").plan()
    second = reindex("second")
    age(admin, second.claim_timeout - 60)
    with pytest.raises(ConflictError):
        second.plan()
    age(admin, second.claim_timeout + 1)
    second.plan()
    assert owners(admin) == ["second"]


def test_a_working_run_is_not_silent(admin: Admin, reindex: Factory) -> None:
    first, second = reindex("first"), reindex("second")
    first.plan()
    age(admin, second.claim_timeout + 1)
    first.window(0)
    with pytest.raises(ConflictError):
        second.plan()


@pytest.mark.parametrize("step", ["window", "verify", "switch"])
def test_a_run_that_was_taken_over_changes_nothing(admin: Admin, reindex: Factory, step: str) -> None:
    zombie, heir = reindex("zombie", deploy_as_blue=True, alias="products"), reindex("heir", force_takeover=True)
    zombie.plan()
    if step != "window":
        zombie.windows()
    heir.plan()
    before, calls = rows_of(admin, NEW), zombie.server.counts.requests
    with pytest.raises(ClaimLostError, match="another run took over"):
        zombie.window(1) if step == "window" else getattr(zombie, step)()
    assert rows_of(admin, NEW) == before
    assert zombie.server.counts.requests == calls
    assert zombie.store().pointer("products") is None
    assert zombie.report()["status"] == "failed"


def test_a_takeover_in_mid_window_stops_the_writes(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """The zombie has embedded, but has not written yet: what it holds must not land."""
    zombie, heir = reindex("zombie", batch_size=40), reindex("heir", force_takeover=True)
    zombie.plan()
    server.latency = 0.5
    errors: list[BaseException] = []

    def work() -> None:
        try:
            zombie.window(0)
        except ClaimLostError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: server.counts.at_once > 1)
    # Its own check of the model would take its time.
    server.latency = 0.0
    heir.plan()
    thread.join(180)
    assert len(errors) == 1
    assert rows_of(admin, NEW) == {}


def test_clearing_a_run_from_its_plan_on_makes_its_own_old_tasks_lose(admin: Admin, reindex: Factory) -> None:
    run = reindex()
    run.plan()
    old = run.plan_made
    run.plan()
    assert run.plan_made.token != old.token
    with run.tools() as tools, pytest.raises(ReindexError, match="clear this run"):
        steps.reindex_window(tools, run.folder, run.owner, old.token, 0)
    assert rows_of(admin, NEW) == {}
    run.windows()


def test_wait_on_conflict_waits_and_then_runs(
    admin: Admin, reindex: Factory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planning, "WAIT_SECONDS", 0.05)
    caplog.set_level("INFO")
    first, second = reindex("first"), reindex("second", wait_on_conflict=True)
    first.plan()
    thread = threading.Thread(target=second.plan)
    thread.start()
    wait_until(lambda: any("waiting: " in message for message in caplog.messages))
    first.windows()
    assert owners(admin) == ["first"]
    assert thread.is_alive()
    finish(first)
    thread.join(180)
    assert owners(admin) == ["second"]
    assert sum("waiting: " in message for message in caplog.messages) == 1, "it is said once, not at each look"
    second.windows()
    second.verify()
    assert second.report()["status"] == "done"
    assert_moved(admin)


def test_who_waited_for_a_switch_treats_the_destination_as_live(
    admin: Admin, reindex: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers and writers went over to the destination while the second run waited: it must not undo their writes."""
    monkeypatch.setattr(planning, "WAIT_SECONDS", 0.05)
    first = reindex("first", deploy_as_blue=True, alias="products")
    second = reindex("second", wait_on_conflict=True)
    first.plan()
    thread = threading.Thread(target=second.plan)
    thread.start()
    first.windows()
    first.verify()
    first.switch()
    add_item(admin, NEW, "newer", "written after the switch")
    add_item(admin, NEW, "o000001", "changed after the switch")
    remove_item(admin, NEW, "o000002")
    assert thread.is_alive()
    finish(first)
    thread.join(180)
    second.windows()
    second.verify()
    assert text_of(admin, NEW, "newer") == "written after the switch"
    assert text_of(admin, NEW, "o000001") == "changed after the switch"
    assert text_of(admin, NEW, "o000002") is None
    assert second.report()["status"] == "done"


def test_a_source_that_is_being_built_is_refused(admin: Admin, reindex: Factory, third: str) -> None:
    reindex("first").plan()
    with pytest.raises(ConflictError, match="the source 'new_model' is itself being built by run 'first'"):
        reindex("second", source_embedding_model_id=NEW, dest_embedding_model_id=third).plan()


def test_a_destination_that_is_being_read_is_refused(admin: Admin, reindex: Factory, third: str) -> None:
    reindex("first").run()
    finish(reindex("first"))
    reindex("second", source_embedding_model_id=NEW, dest_embedding_model_id=third).plan()
    with pytest.raises(ConflictError, match="the destination 'new_model' is being read by run 'second'"):
        reindex("third").plan()


def test_two_runs_may_read_the_same_source(admin: Admin, reindex: Factory, third: str) -> None:
    one, other = reindex("one"), reindex("other", dest_embedding_model_id=third)
    one.plan()
    other.plan()
    for run in (other, one):
        run.windows()
        run.verify()
    assert sorted(owners(admin)) == ["one", "other"]


def test_of_plans_at_the_same_moment_one_wins(admin: Admin, reindex: Factory) -> None:
    """On a database that has not even our tables: making them must not fail either."""
    runs = [reindex(f"run{number}") for number in range(6)]
    start = threading.Barrier(len(runs))
    outcomes: dict[str, BaseException | None] = {}

    def work(run: Reindex) -> None:
        start.wait()
        try:
            run.plan()
            outcomes[run.run_id] = None
        except BaseException as error:
            outcomes[run.run_id] = error

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    winners = [run_id for run_id, error in outcomes.items() if error is None]
    assert len(winners) == 1
    assert owners(admin) == winners
    losers = [error for error in outcomes.values() if error is not None]
    assert all(isinstance(error, ConflictError) for error in losers), losers
    winner = next(run for run in runs if run.run_id == winners[0])
    winner.windows()
    winner.verify()
    assert_moved(admin)
