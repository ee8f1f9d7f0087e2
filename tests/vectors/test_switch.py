"""Readers are switched over when everything is proven, once, and what comes late is carried over."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from airflow_reindex.core.failures import ConflictError, DataError
from airflow_reindex.vectors.model.store import Pointer
from airflow_reindex.vectors.sync.reconcile import Tally
from airflow_reindex.vectors.sync.session import Session
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from sandbox.servers.postgres import Postgres
from tests.support.collection_contents import (
    add_item,
    assert_moved,
    assert_vectors,
    finish,
    follower,
    keys_seen,
    remove_item,
    text_of,
    waiting_for_lock,
)
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, rows_of, texts
from tests.support.wait import wait_until


@pytest.fixture
def run(admin: Admin, reindex: Factory) -> Reindex:
    """A run that has verified and is about to switch."""
    make_source(admin, texts(40))
    return reindex(deploy_as_blue=True, alias="products", max_failed=5).to_switch()


def user_object(admin: Admin) -> None:
    """A user's personalised copy in the source."""
    admin.execute("INSERT INTO dbo_old_model (object_id, original_id, user_id) VALUES ('copy', 'o000001', 'me')")


class Hook(list[Pointer]):
    """A hook that does something before it takes note."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self._work = work

    def append(self, pointer: Pointer) -> None:
        """Called by the switch."""
        self._work()
        super().append(pointer)


def test_it_is_refused_while_the_destination_has_other_rows(admin: Admin, reindex: Factory) -> None:
    """A row of others, which is to go, and which somebody keeps there: what the catch-up removes comes back."""
    make_source(admin, texts(40))
    run = reindex(deploy_as_blue=True, alias="products", overwrite_foreign=True).to_switch()
    admin.execute("INSERT INTO dbo_new_model (object_id) VALUES ('foreign')")
    admin.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER keep BEFORE DELETE ON dbo_new_model FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with pytest.raises(DataError, match=r"1 items more than the source .* readers stay on the old collection"):
        run.switch()
    assert follower(run) == ""
    assert run.hooked == []
    assert run.report()["status"] == "failed"
    admin.execute("DROP TRIGGER keep ON dbo_new_model")
    run.switch()
    assert_moved(admin)


def test_it_is_refused_without_the_index(admin: Admin, run: Reindex) -> None:
    admin.execute('DROP INDEX "new_model_index"')
    with pytest.raises(DataError, match="index of 'new_model' is gone: clear the task 'verify'"):
        run.switch()
    assert follower(run) == ""
    run.verify()
    run.switch()
    assert follower(run) == NEW


def test_it_is_refused_when_users_have_objects_by_now(admin: Admin, run: Reindex) -> None:
    user_object(admin)
    with pytest.raises(ConflictError, match="drop_user_objects=true"):
        run.switch()
    assert follower(run) == ""


def test_users_objects_that_come_at_the_last_moment_are_seen(
    admin: Admin, run: Reindex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first look, and before writers are held."""
    whole = Session.reconcile_all

    def late(at: Session) -> Tally:
        user_object(admin)
        return whole(at)

    monkeypatch.setattr(Session, "reconcile_all", late)
    with pytest.raises(ConflictError, match="drop_user_objects=true"):
        run.switch()
    assert follower(run) == ""


def test_it_is_refused_when_the_alias_has_gone_elsewhere(admin: Admin, run: Reindex, server: EmbeddingServer) -> None:
    """Since the plan, readers went to a third collection: that one is the truth by now, not the source."""
    make_source(admin, texts(50), "third_model")
    run.store().repoint(Pointer(alias="products", collection_id="third_model", embedding_model_id="third_model"), None)
    with pytest.raises(ConflictError, match="'third_model'"):
        run.switch()
    assert follower(run) == "third_model"


@pytest.mark.parametrize("existing", [False, True])
def test_an_alias_may_be_new_or_not(admin: Admin, run: Reindex, existing: bool) -> None:
    if existing:
        run.store().repoint(Pointer(alias="products", collection_id=OLD, embedding_model_id=OLD), None)
    run.switch()
    pointer = run.store().pointer("products")
    assert pointer is not None
    assert (pointer.collection_id, pointer.embedding_model_id, pointer.hooked) == (NEW, NEW, True)
    assert (pointer.previous_collection_id, pointer.previous_model_id) == (OLD, OLD)
    assert [told.collection_id for told in run.hooked] == [NEW]
    assert {key: payload for key, (payload, _) in rows_of(admin, "products").items()} == texts(40)
    assert admin.execute("SELECT count(*) FROM dbop_products").fetchone() == (80,)
    assert rows_of(admin, OLD).keys() == texts(40).keys(), "the old collection stays"


def test_the_hook_is_told_after_the_switch_and_again_after_it_failed(admin: Admin, run: Reindex) -> None:
    seen: list[str] = []

    def work() -> None:
        seen.append(follower(run))
        if len(seen) == 1:
            raise ConnectionError("the registry is away")

    run.hooked = Hook(work)
    with pytest.raises(ConnectionError):
        run.switch()
    pointer = run.store().pointer("products")
    assert pointer is not None
    assert not pointer.hooked
    run.switch()
    run.switch()
    assert seen == [NEW, NEW], "never before the switch; not again once it succeeded"
    assert run.report()["status"] == "done"


class Late:
    """
    A writer that has to wait for the switch, and writes to the source just after it.

    :param admin: to look at locks.
    :param connection: its own.
    :param statement: what it writes.
    """

    def __init__(self, admin: Admin, connection: Admin, statement: str) -> None:
        self._admin, self._connection, self._statement = admin, connection, statement
        self._thread = threading.Thread(target=self._write)

    def start(self) -> None:
        """Until it waits."""
        if self._thread.ident is None:
            self._thread.start()
            wait_until(lambda: waiting_for_lock(self._admin, "dbo_old_model"))

    def join(self) -> None:
        """Until it has written."""
        self._thread.join(180)
        self._connection.close()

    def _write(self) -> None:
        with self._connection.transaction():
            self._connection.execute(self._statement.encode())
            # Longer than the switch would need to look for it.
            self._connection.execute("SELECT pg_sleep(0.5)")


UPDATE = """UPDATE dbo_old_model SET payload = '{"text": "late"}' WHERE object_id = 'o000003'"""
DELETE = "DELETE FROM dbo_old_model WHERE object_id = 'o000003'"
INSERT = """INSERT INTO dbo_old_model VALUES ('late', '{"text": "late"}')"""


@pytest.mark.parametrize("statement", [UPDATE, DELETE, INSERT, f"{INSERT}; {DELETE}; {UPDATE.replace('3', '4')}"])
@pytest.mark.parametrize("hook", ["works", "fails once"])
def test_writes_that_waited_for_the_switch_are_carried_over(
    admin: Admin, run: Reindex, postgres: Postgres, vectors: str, statement: str, hook: str
) -> None:
    late = Late(admin, postgres.connect(vectors), statement)
    told: list[str] = []

    def work() -> None:
        late.start()
        told.append("")
        if hook == "fails once" and len(told) == 1:
            raise ConnectionError("the registry is away")

    run.hooked = Hook(work)
    if hook == "fails once":
        with pytest.raises(ConnectionError):
            run.switch()
        late.join()
    run.switch()
    late.join()
    assert_moved(admin)


def test_a_late_removal_is_carried_over_though_items_failed(
    admin: Admin, reindex: Factory, server: EmbeddingServer, postgres: Postgres, vectors: str
) -> None:
    make_source(admin, texts(40))
    server.faults = [Fault(contains="number 7", vector="nan")]
    run = reindex(deploy_as_blue=True, alias="products", max_failed=5)
    late = Late(admin, postgres.connect(vectors), DELETE)
    run.hooked = Hook(late.start)
    assert run.run()["status"] == "done"
    late.join()
    assert keys_seen(admin, "products") == texts(40).keys() - {"o000003", "o000007"}


def live_writes(admin: Admin) -> None:
    """What an application writes to the new collection after the switch."""
    add_item(admin, NEW, "newer", "written after the switch")
    add_item(admin, NEW, "o000001", "changed after the switch")
    remove_item(admin, NEW, "o000002")
    # EmbeddingStudio's own writers note no averages.
    admin.execute(
        "INSERT INTO dbo_new_model (object_id, payload) VALUES ('bare', '{}'); INSERT INTO dbop_new_model "
        "(part_id, object_id, vector) SELECT 'bare:0', 'bare', vector FROM dbop_new_model LIMIT 1"
    )


def assert_live_writes(admin: Admin) -> None:
    """They are still there."""
    assert text_of(admin, NEW, "newer") == "written after the switch"
    assert text_of(admin, NEW, "o000001") == "changed after the switch"
    assert keys_seen(admin, "products") == (texts(40).keys() - {"o000002"}) | {"newer", "bare"}
    parts = admin.execute("SELECT count(*) FROM dbop_new_model WHERE object_id = 'bare'").fetchone()
    assert parts == (1,)
    remove_item(admin, NEW, "bare")
    assert_vectors(admin)


@pytest.mark.parametrize("deploy", [True, False])
def test_a_run_after_the_switch_leaves_the_live_destination_alone(
    admin: Admin, run: Reindex, reindex: Factory, deploy: bool
) -> None:
    run.switch()
    finish(run)
    live_writes(admin)
    before = run.embedded()
    second = reindex("second", **({"deploy_as_blue": True, "alias": "products"} if deploy else {}))
    report = second.run()
    assert report["status"] == "done", report["detail"]
    assert (report["notes"]["embedded"], report["notes"]["deleted"]) == (0, 0)
    assert sum(second.embedded().values()) == sum(before.values()) + 1, "the plan's own look at the model"
    assert second.hooked == []
    assert_live_writes(admin)


@pytest.mark.parametrize("step", ["windows", "verify", "switch"])
def test_a_task_that_is_cleared_after_the_switch_leaves_the_live_destination_alone(
    admin: Admin, run: Reindex, step: str
) -> None:
    run.switch()
    live_writes(admin)
    getattr(run, step)()
    assert_live_writes(admin)


def test_the_source_goes_only_after_the_switch(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(40))
    run = reindex(deploy_as_blue=True, alias="products", delete_source=True).to_switch()
    there: list[bool] = []

    def work() -> None:
        there.append(run.store().find(OLD) is not None)
        if len(there) == 1:
            raise ConnectionError("the registry is away")

    run.hooked = Hook(work)
    with pytest.raises(ConnectionError):
        run.switch()
    assert run.store().find(OLD) is not None
    run.switch()
    assert there == [True, True]
    assert run.store().find(OLD) is None
    run.switch()
    report = run.report()
    assert (report["status"], report["total"], report["notes"]["switch"]["source_deleted"]) == ("done", 40, True)
    assert keys_seen(admin, "products") == texts(40).keys()
    assert_vectors(admin)


def test_a_source_that_others_depend_on_stays(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(20))
    admin.execute("CREATE VIEW theirs AS SELECT object_id FROM dbo_old_model")
    run = reindex(deploy_as_blue=True, alias="products", delete_source=True)
    with pytest.raises(ConflictError, match="depends on"):
        run.run()
    assert follower(run) == NEW
    assert rows_of(admin, OLD).keys() == texts(20).keys()
    admin.execute("DROP VIEW theirs")
    run.switch()
    assert run.report()["status"] == "done"
