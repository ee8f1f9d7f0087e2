"""`writes_go_to=dest`: writers write to the destination while it is filled, and theirs is the newer state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_reindex.vectors.model.collection import Vectors
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.collection_contents import add_item, assert_vectors, finish, keys_seen, remove_item, text_of
from tests.support.reindex import NEW, OLD, Admin, Factory, Reindex, make_source, texts


@pytest.fixture
def run(admin: Admin, reindex: Factory) -> Reindex:
    """Three windows, planned."""
    make_source(admin, texts(40))
    run = reindex(writes_go_to="dest", deploy_as_blue=True, alias="products", max_failed=5)
    run.plan()
    return run


def end(run: Reindex) -> None:
    """The rest of a run."""
    run.verify()
    run.switch()
    report = run.report()
    assert report["status"] == "done", report["detail"]


def test_rows_that_others_wrote_survive(admin: Admin, run: Reindex) -> None:
    add_item(admin, NEW, "o000001", "written before its window")
    add_item(admin, NEW, "a", "not in the source")
    run.windows()
    add_item(admin, NEW, "o000002", "written after its window")
    add_item(admin, NEW, "z", "not in the source")
    end(run)
    assert text_of(admin, NEW, "o000001") == "written before its window"
    assert text_of(admin, NEW, "o000002") == "written after its window"
    assert keys_seen(admin, "products") == texts(40).keys() | {"a", "z"}
    assert text_of(admin, OLD, "o000001") == "text number 1", "the source is only read"
    # Theirs have the vectors that they wrote, all others those of the source's texts.
    assert_vectors(admin)


def test_a_row_that_is_written_while_its_batch_is_on_the_way_survives(
    admin: Admin, run: Reindex, server: EmbeddingServer
) -> None:
    """After source and destination were compared, and before the batch lands."""

    def embed(model: str, batch: list[str]) -> Vectors:
        if "text number 3" in batch:
            add_item(admin, NEW, "o000003", "written meanwhile")
        return hash_vectors(model, batch, 8)

    server.embed = embed
    run.windows()
    end(run)
    assert text_of(admin, NEW, "o000003") == "written meanwhile"
    assert_vectors(admin)


def test_rows_removed_after_they_landed_stay_away(admin: Admin, run: Reindex) -> None:
    run.windows()
    remove_item(admin, NEW, "o000005")
    run.windows()
    end(run)
    assert keys_seen(admin, "products") == texts(40).keys() - {"o000005"}


def test_a_second_run_does_not_bring_removed_rows_back(admin: Admin, run: Reindex, reindex: Factory) -> None:
    run.windows()
    remove_item(admin, NEW, "o000005")
    end(run)
    finish(run)
    second = reindex("second", writes_go_to="dest")
    assert second.run()["status"] == "done"
    assert text_of(admin, NEW, "o000005") is None


def test_removals_from_the_source_remove_nothing(admin: Admin, run: Reindex) -> None:
    run.windows()
    remove_item(admin, OLD, "o000005")
    add_item(admin, NEW, "newer", "not in the source")
    end(run)
    assert keys_seen(admin, "products") == texts(40).keys() | {"newer"}


def test_objects_that_others_have_not_completed_yet_stay(admin: Admin, run: Reindex) -> None:
    """A writer that writes an object first and its vectors later, and one that knows no averages; more than a few."""
    run.windows()
    admin.execute("INSERT INTO dbo_new_model (object_id) SELECT 'm' || n FROM generate_series(1, 250) n")
    admin.execute("DELETE FROM dbop_new_model WHERE part_id = 'o000020:average'")
    end(run)
    assert len(keys_seen(admin, "products")) == 290
    mended = admin.execute("SELECT count(*) FROM dbop_new_model WHERE part_id = 'o000020:average'").fetchone()
    assert mended == (1,), "what this package wrote is complete"


def test_an_item_that_failed_and_was_then_written_by_others_stays(
    admin: Admin, run: Reindex, server: EmbeddingServer
) -> None:
    server.faults = [Fault(contains="number 7", vector="nan")]
    run.windows()
    add_item(admin, NEW, "o000007", "mended by its writer")
    end(run)
    assert text_of(admin, NEW, "o000007") == "mended by its writer"
    assert_vectors(admin)


def test_an_item_whose_new_vectors_failed_once_is_tried_again(
    admin: Admin, run: Reindex, reindex: Factory, server: EmbeddingServer
) -> None:
    """It has landed, and its row is as it landed: its failure must not make it somebody else's."""
    run.windows()
    end(run)
    finish(run)
    # Another embedding config, so that all items are embedded again.
    spec = replace(run.spec(NEW), document_prefix="passage: ")
    server.faults = [Fault(contains="number 7", vector="nan")]
    second = reindex("second", writes_go_to="dest")
    second.specs[NEW] = spec
    second.run()
    assert second.failed() == {"o000007": "on_inference"}
    finish(second)
    server.faults = []
    asked = second.embedded()["passage: text number 7"]
    third = reindex("third", writes_go_to="dest")
    third.specs[NEW] = spec
    assert third.run()["status"] == "done"
    assert third.embedded()["passage: text number 7"] == asked + 1
