"""A destination that the deployment made live by itself: what its writers do there survives, and is told of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Vectors
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.collection_contents import add_item, assert_moved, assert_vectors, finish, remove_item, text_of
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, texts


@pytest.fixture
def first(admin: Admin, reindex: Factory) -> Reindex:
    """A collection that has moved; no alias of ours follows it."""
    make_source(admin, texts(40))
    run = reindex("first")
    run.run()
    finish(run)
    return run


def write_there(admin: Admin) -> None:
    """What writers of the live collection do: a new object, an update, a removal."""
    add_item(admin, NEW, "newer", "written by its writers")
    add_item(admin, NEW, "o000001", "changed by its writers")
    remove_item(admin, NEW, "o000002")


def assert_there(admin: Admin) -> None:
    """What they did is there."""
    assert text_of(admin, NEW, "newer") == "written by its writers"
    assert text_of(admin, NEW, "o000001") == "changed by its writers"
    assert text_of(admin, NEW, "o000002") is None


def test_a_nightly_run_leaves_it_alone_and_says_so(
    admin: Admin, first: Reindex, reindex: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    write_there(admin)
    add_item_to_source(admin, "o000005", "changed in the source")
    remove_item(admin, OLD, "o000006")
    report = reindex("nightly").run()
    assert_there(admin)
    assert (report["status"], report["total"], report["failed"]) == ("done", 39, 0)
    assert report["notes"]["left_alone"] == 3
    for words in ("3 objects of the destination 'new_model'", "writes_go_to=dest", "overwrite_foreign=true"):
        assert words in report["notes"]["others"]
        assert words in caplog.text
    assert text_of(admin, NEW, "o000005") == "changed in the source", "the rest is kept in step"
    assert text_of(admin, NEW, "o000006") is None
    assert_vectors(admin)


def add_item_to_source(admin: Admin, key: str, text: str) -> None:
    """Change an item of the source."""
    admin.execute(
        "UPDATE dbo_old_model SET payload = jsonb_build_object('text', %s::text) WHERE object_id = %s", (text, key)
    )


def test_a_param_makes_it_as_the_source_has_it(admin: Admin, first: Reindex, reindex: Factory) -> None:
    write_there(admin)
    report = reindex("again", overwrite_foreign=True).run()
    assert (report["status"], report["count"]) == ("done", 40)
    assert "left_alone" not in report["notes"]
    assert_moved(admin)


def test_a_live_alias_is_never_overwritten(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(20))
    run = reindex("first", deploy_as_blue=True, alias="products")
    run.run()
    finish(run)
    write_there(admin)
    report = reindex("again", overwrite_foreign=True).run()
    assert (report["status"], report["notes"]["left_alone"]) == ("done", 3)
    assert_there(admin)


def test_a_switch_is_proven_with_them(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """Destination = source - failed - removed by others + theirs; a removal from the source is carried over."""
    make_source(admin, texts(40) | {"o000030": {"other": 1}, "o000031": {"other": 1}})
    run = reindex(deploy_as_blue=True, alias="products", max_failed=5)
    run.plan()
    run.windows()
    write_there(admin)
    add_item(admin, NEW, "o000031", "embedded by its writers")
    run.verify()
    remove_item(admin, OLD, "o000007")
    add_item(admin, NEW, "late", "written before the switch")
    remove_item(admin, NEW, "o000008")
    run.switch()
    report = run.report()
    assert (report["status"], report["total"], report["failed"]) == ("done", 39, 1), report["detail"]
    assert run.failed() == {"o000030": "on_downloading"}
    assert report["notes"]["left_alone"] == 6
    assert_there(admin)
    assert text_of(admin, NEW, "late") == "written before the switch"
    assert text_of(admin, NEW, "o000031") == "embedded by its writers"
    assert (text_of(admin, NEW, "o000007"), text_of(admin, NEW, "o000008")) == (None, None)


def test_written_while_its_batch_is_on_the_way(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """After source and destination were compared; also of an item whose embedding then fails."""
    make_source(admin, texts(20))
    run = reindex()
    run.plan()

    def embed(model: str, batch: list[str]) -> Vectors:
        if "text number 3" in batch:
            add_item(admin, NEW, "o000003", "written meanwhile")
        return hash_vectors(model, batch, 8)

    server.embed = embed
    run.windows()
    run.verify()
    report = run.report()
    assert (report["status"], report["notes"]["left_alone"]) == ("done", 1)
    assert text_of(admin, NEW, "o000003") == "written meanwhile"
    assert_vectors(admin)


def test_a_failed_item_s_older_row(admin: Admin, first: Reindex, reindex: Factory, server: EmbeddingServer) -> None:
    """Ours is removed, as a stale vector is a wrong answer; theirs stays, and its item has not failed."""
    add_item(admin, NEW, "o000013", "mended by its writers")
    server.faults = [Fault(contains="number 13", vector="nan"), Fault(contains="number 4", vector="nan")]
    second = reindex("second")
    second.specs[NEW] = replace(second.spec(NEW), document_prefix="passage: ")
    second.run()
    assert second.failed() == {"o000004": "on_inference"}
    assert text_of(admin, NEW, "o000013") == "mended by its writers"
    assert text_of(admin, NEW, "o000004") is None


@pytest.mark.parametrize("params", [{}, {"writes_go_to": "dest"}])
def test_an_empty_destination_is_never_done(
    admin: Admin, first: Reindex, reindex: Factory, params: dict[str, Any]
) -> None:
    admin.execute("TRUNCATE dbo_new_model, dbop_new_model")
    second = reindex("second", **params)
    with pytest.raises(DataError, match="the destination 'new_model' is empty, although 40 items have landed"):
        second.run()
    report = second.report()
    assert (report["status"], report["rows"]) == ("failed", 0)
    finish(second)
    admin.execute("DROP TABLE dbop_new_model, dbo_new_model")
    assert reindex("third", **params).run()["status"] == "done"
    assert_moved(admin)


def test_columns_of_other_types_make_no_row_foreign(admin: Admin, reindex: Factory) -> None:
    """What is written from a source of json keeps its spelling there, and not in our jsonb."""
    make_source(admin, {})
    admin.execute(
        "ALTER TABLE dbo_old_model ALTER payload TYPE json, ALTER storage_meta TYPE text; "
        """INSERT INTO dbo_old_model VALUES ('a', '{"text":  "one", "n": 1.0}', '{ "file": "a"}')"""
    )
    first, second = reindex("first"), reindex("second")
    first.run()
    finish(first)
    report = second.run()
    assert (report["status"], report["notes"]["embedded"], "left_alone" in report["notes"]) == ("done", 0, False)


def test_our_own_rows_without_marks_of_half_a_transaction_do_not_exist(
    admin: Admin, first: Reindex, reindex: Factory, server: EmbeddingServer
) -> None:
    """A run that is cut off between its batches: what landed has its mark, and the next run goes on."""
    second = reindex("second")
    second.specs[NEW] = replace(second.spec(NEW), document_prefix="passage: ")
    second.plan()
    second.window(0)
    third = reindex("third", force_takeover=True)
    third.specs[NEW] = second.specs[NEW]
    report = third.run()
    assert (report["status"], report["count"]) == ("done", 40)
    assert "left_alone" not in report["notes"]
    assert max(server.counts.embedded[NEW].values()) < 5
