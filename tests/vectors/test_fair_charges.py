"""No item is charged for its neighbours, for a moment's outage, or for a model that fails at everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import TransientError
from airflow_reindex.vectors.model.collection import Vectors
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.collection_contents import assert_moved
from tests.support.reindex import DIMENSIONS, NEW, OLD, Admin, Factory, make_source, rows_of, texts


@pytest.mark.parametrize(
    ("fault", "requests"),
    # What is refused is not tried again.
    [({"drop": True}, 15), ({"status": 500}, 17), ({"body": "{"}, 15), ({"status": 422}, 5)],
    ids=["dropped", "500", "babbled", "refused"],
)
def test_a_short_outage_charges_nobody(
    admin: Admin, reindex: Factory, server: EmbeddingServer, fault: dict[str, Any], requests: int
) -> None:
    """It lasts until the window is halved down to its first item, or for two tries of the harmless text more."""
    make_source(admin, texts(16))
    run = reindex()
    run.plan()
    server.faults.append(Fault(times=requests, **fault))
    run.windows()
    run.verify()
    report = run.report()
    assert (report["status"], report["count"], report["failed"]) == ("done", 16, 0)
    assert_moved(admin)


def test_an_outage_that_goes_on_fails_the_window_and_charges_nobody(
    admin: Admin, reindex: Factory, server: EmbeddingServer
) -> None:
    make_source(admin, texts(16))
    run = reindex()
    run.plan()
    server.faults.append(Fault(drop=True, times=18))
    with pytest.raises(TransientError, match=r"fails at everything: .*dropped the connection"):
        run.windows()
    run.windows()
    run.verify()
    assert (run.report()["count"], run.failed()) == (16, {})


def test_an_item_is_not_charged_for_its_neighbours(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """A server of one attention mask for all gives no vectors to short texts beside a long one."""

    def embed(model: str, given: list[str]) -> Vectors:
        vectors = hash_vectors(model, given, DIMENSIONS[model])
        lengths = [len(text) for text in given]
        vectors[[length < 50 < max(lengths) for length in lengths]] = np.nan
        return vectors

    rows = texts(40)
    for key in ("o000005", "o000020"):
        rows[key]["text"] += " and more" * 10
    make_source(admin, rows)
    server.embed = embed
    run = reindex(batch_size=40)
    report = run.run()
    assert (report["status"], report["count"], run.failed()) == ("done", 40, {})
    assert_moved(admin)
    assert server.counts.requests <= 12, "two requests a batch, and what plan asks for"


SICK = {
    "NaN": lambda vectors: np.full_like(vectors, np.nan),
    "zeros": np.zeros_like,
    "infinities": lambda vectors: np.full_like(vectors, np.inf),
}


@pytest.mark.parametrize("sick", SICK.values(), ids=SICK.keys())
def test_a_model_that_fails_at_everything(
    admin: Admin, reindex: Factory, server: EmbeddingServer, sick: Callable[[Vectors], Vectors]
) -> None:
    """It charges no item and removes no row; when it is well again, the run goes on."""
    make_source(admin, texts(60))
    reindex().run()
    before = rows_of(admin, NEW)
    admin.execute("UPDATE dbo_old_model SET payload = payload || '{\"n\": 1}' WHERE object_id < 'o000050'")
    second = reindex("second", force_takeover=True, batch_size=60)
    second.plan()
    server.embed = lambda model, given: sick(hash_vectors(model, given, DIMENSIONS[model]))
    with pytest.raises(TransientError, match="model 'new_model' fails at everything"):
        second.windows()
    assert rows_of(admin, NEW) == before, "older rows are better than none"
    with second.tools() as tools:
        assert tools.store.open(NEW).count_failed(second.plan_made.token) == 0
    assert second.report()["status"] == "failed"
    server.embed = None
    second.windows()
    second.verify()
    assert (second.report()["status"], second.failed()) == ("done", {})
    assert rows_of(admin, NEW) == rows_of(admin, OLD)


def test_a_model_that_falls_ill_in_between(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """What it did before stays, and the rest is done later; nobody is charged."""
    make_source(admin, texts(64))
    run = reindex(batch_size=64)
    run.plan()
    asked: list[str] = []

    def embed(model: str, given: list[str]) -> Vectors:
        asked.extend(given)
        vectors = hash_vectors(model, given, DIMENSIONS[model])
        return vectors if len(asked) <= 32 else np.full_like(vectors, np.nan)

    server.embed = embed
    with pytest.raises(TransientError):
        run.windows()
    server.embed = None
    run.windows()
    run.verify()
    assert (run.report()["count"], run.failed()) == (64, {})
    assert_moved(admin)
