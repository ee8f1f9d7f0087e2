"""Readers go back to the old collection, and are told what it lacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.vectors.cutover.rollback import RolledBack, roll_back
from airflow_reindex.vectors.model.store import Pointer
from tests.support.collection_contents import add_item, finish, follower, keys_seen, remove_item
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, texts


@pytest.fixture
def run(admin: Admin, reindex: Factory) -> Reindex:
    """A run that has switched."""
    make_source(admin, texts(40))
    run = reindex(deploy_as_blue=True, alias="products")
    run.run()
    finish(run)
    return run


def back(run: Reindex, hook: Callable[[Pointer], None] | None = None) -> RolledBack:
    """Roll back."""
    return roll_back(run.store(), "products", hook, "back")


def dimensions_seen(admin: Admin) -> set[int]:
    """Of the vectors behind the alias."""
    return {size for (size,) in admin.execute("SELECT DISTINCT vector_dims(vector) FROM dbop_products").fetchall()}


def test_pointer_and_views_go_back(admin: Admin, run: Reindex) -> None:
    add_item(admin, OLD, "o000001", "text number 1")
    told: list[Pointer] = []
    result = back(run, told.append)
    assert (result.collection_id, result.embedding_model_id, result.was) == (OLD, OLD, NEW)
    pointer = run.store().pointer("products")
    assert pointer is not None
    assert (pointer.collection_id, pointer.embedding_model_id, pointer.run_id) == (OLD, OLD, "back")
    assert (pointer.previous_collection_id, pointer.previous_model_id, pointer.hooked) == (NEW, NEW, True)
    assert dimensions_seen(admin) == {4}
    assert [one.embedding_model_id for one in told] == [OLD]


def test_it_says_what_the_old_one_lacks(admin: Admin, run: Reindex) -> None:
    # Before, between and after the others' keys.
    for key in ("a", "o000001x", "z"):
        add_item(admin, NEW, key, "inserted since")
    add_item(admin, NEW, "o000001", "changed since")
    remove_item(admin, NEW, "o000002")
    remove_item(admin, NEW, "o000039")
    result = back(run)
    assert (result.missing, result.resurrected) == (4, 2)
    assert sorted(result.named) == ["a", "o000001", "o000001x", "o000002", "o000039", "z"]


def test_twice_is_forward_again(admin: Admin, run: Reindex) -> None:
    result = back(run)
    assert (result.missing, result.resurrected, result.named) == (0, 0, []), "nobody wrote"
    result = back(run)
    assert (result.collection_id, result.embedding_model_id, result.was) == (NEW, NEW, OLD)
    assert dimensions_seen(admin) == {8}


def test_a_switch_after_a_roll_back_brings_what_the_old_one_got_meanwhile(
    admin: Admin, run: Reindex, reindex: Factory
) -> None:
    """Readers and writers are back at the old collection, so that it is the truth again."""
    back(run)
    remove_item(admin, OLD, "o000003")
    admin.execute("""INSERT INTO dbo_old_model VALUES ('newer', '{"text": "written after the roll-back"}')""")
    second = reindex("second", deploy_as_blue=True, alias="products")
    assert second.run()["status"] == "done"
    assert follower(second) == NEW
    assert keys_seen(admin, "products") == (texts(40).keys() - {"o000003"}) | {"newer"}


def test_it_is_refused_when_the_old_collection_was_removed(run: Reindex) -> None:
    run.store().drop(OLD)
    with pytest.raises(ConflictError, match="'old_model' was removed"):
        back(run)
    assert follower(run) == NEW


def test_it_is_refused_without_an_alias(run: Reindex) -> None:
    with pytest.raises(RequestError, match="no alias 'unknown'"):
        roll_back(run.store(), "unknown", None, "back")


def test_it_is_refused_when_there_was_no_switch(run: Reindex) -> None:
    run.store().repoint(Pointer(alias="first", collection_id=OLD, embedding_model_id=OLD), None)
    with pytest.raises(ConflictError, match="never been switched"):
        roll_back(run.store(), "first", None, "back")


def test_a_roll_back_during_a_hook_is_not_undone(admin: Admin, reindex: Factory) -> None:
    """A registry that hangs is a reason to roll back; the switch must not finish over it."""
    make_source(admin, texts(5))
    run = reindex(deploy_as_blue=True, alias="products")

    class Hook(list[Pointer]):
        def append(self, pointer: Pointer) -> None:
            assert pointer.collection_id == NEW
            back(run)

    run.hooked = Hook()
    with pytest.raises(ConflictError, match="pointed to 'old_model' meanwhile"):
        run.run()
    assert follower(run) == OLD
