"""From a source to a destination and after its changes, as a run does it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.embedding.bisect import PROBE
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings
from airflow_reindex.vectors.embedding.pipeline import EmbeddingPipeline
from airflow_reindex.vectors.model.collection import Collection, Vectors
from airflow_reindex.vectors.model.embedding_model import Kind, ModelSpec
from airflow_reindex.vectors.model.splitting import Splitter
from airflow_reindex.vectors.sync.decide import Rules
from airflow_reindex.vectors.sync.reconcile import Reconciler, Tally, embedding_config_hash
from tests.vectors.contract.samples import DIMENSIONS, Place, embedded, item


class Model:
    """Each text's vector comes from its hash; texts with the word ``poison`` are refused."""

    def __init__(self) -> None:
        self.spec = ModelSpec(model_id="new", backend="test", name="hash", dimensions=DIMENSIONS, batch_size=4)
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """Embed texts."""
        if any("poison" in text for text in texts):
            raise DataError("poison")
        self.texts += [text for text in texts if text != PROBE]
        return np.stack([vector_of(text) for text in texts])

    def close(self) -> None:
        """There is nothing to let go of."""


def vector_of(text: str) -> Vectors:
    """A text's vector."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=DIMENSIONS).astype(np.float32)


class Reindex:
    """A run's core, without Airflow."""

    def __init__(self, source: Collection, dest: Collection) -> None:
        self.source, self.dest, self.model = source, dest, Model()
        pipeline = EmbeddingPipeline(
            model=self.model,
            loader=PayloadLoader(PayloadSettings(fields=("text",))),
            splitter=Splitter(characters=20),
        )
        self.config_hash = embedding_config_hash(pipeline)
        self._reconciler = Reconciler(
            source=source, dest=dest, pipeline=pipeline, token="token-dst", check=lambda: None
        )

    def run(self, *, since: str | None = None, preserve_newer: bool = False, windows: int = 3) -> Tally:
        """Reconcile all windows."""
        self.model.texts.clear()
        rules = Rules(embedding_config_hash=self.config_hash, plan_token="run", preserve_newer=preserve_newer)
        if since is not None:
            return self._reconciler.run(None, None, replace(rules, skip_failed=True), since=since)
        keys = [key for batch in self.source.keys(50) for key in batch]
        bounds = [None, *(keys[len(keys) * n // windows] for n in range(1, windows)), None]
        tally = Tally()
        for after, until in pairwise(bounds):
            tally.add(self._reconciler.run(after, until, rules))
        return tally


@pytest.fixture
def reindex(source: Collection, dest: Collection) -> Reindex:
    """A source of 40 items, one of which fails, and an empty destination."""
    texts = {f"o{number:02d}": f"Sentence {number}. And another one." for number in range(39)}
    texts["poison'd"] = "This is poison."
    source.put("token-src", [embedded(item(key, {"text": text}, user_id="u")) for key, text in texts.items()])
    return Reindex(source, dest)


def test_equal_after_the_first_run_and_quiet_in_the_second(reindex: Reindex) -> None:
    source, dest = reindex.source, reindex.dest
    tally = reindex.run()
    assert (tally.seen, tally.embedded, [one.object_id for one in tally.failed]) == (40, 39, ["poison'd"])
    assert dest.count() + dest.count_failed("run") == source.count()
    versions = source.versions(None, None)
    assert dest.versions(None, None) == {key: version for key, version in versions.items() if key != "poison'd"}
    keys = list(versions)[:10]
    assert sorted(dest.items(keys), key=repr) == sorted(source.items(keys), key=repr)
    for text in reindex.model.texts:
        (hit,) = dest.search(vector_of(text), 1, exact=True)
        assert hit.distance == pytest.approx(0, abs=1e-5)
    again = reindex.run()
    assert (again.unchanged, again.changes, len(again.failed)) == (39, 0, 1)
    assert reindex.model.texts == []
    damage = dest.integrity_errors(None, None)
    assert (list(damage.incomplete), damage.orphans) == ([], 0)


@pytest.mark.parametrize("preserve_newer", [False, True])
def test_changes_follow(reindex: Reindex, place: Place, preserve_newer: bool) -> None:
    source, dest = reindex.source, reindex.dest
    reindex.run()
    watermark = source.watermark()
    place.rewrite("src", "o03", {"text": "Changed."})
    source.put("token-src", [embedded(item("o99", {"text": "New."}))])
    tally = reindex.run(since=watermark, preserve_newer=preserve_newer)
    assert tally.embedded == 2
    assert sorted(reindex.model.texts) == ["Changed.", "New."]
    assert dest.items(["o03"])[0].payload == {"text": "Changed."}
    place.rewrite("src", "poison'd", {"text": "Mended."})
    place.remove("src", "o05")
    tally = reindex.run(preserve_newer=preserve_newer)
    assert (tally.embedded, tally.deleted, tally.failed) == (1, 0 if preserve_newer else 1, [])
    assert dest.count() == source.count() + preserve_newer


def test_what_others_write_to_a_protected_destination_stays(reindex: Reindex, place: Place) -> None:
    source, dest = reindex.source, reindex.dest
    reindex.run()
    place.rewrite("dst", "o03", {"text": "Theirs."})
    place.remove("dst", "o04")
    for key in ("o03", "o04", "o05"):
        place.rewrite("src", key, {"text": "Ours."})
    tally = reindex.run(preserve_newer=True)
    assert (tally.embedded, tally.deleted) == (1, 0)
    assert {one.object_id: one.payload for one in dest.items(["o03", "o04", "o05"])} == {
        "o03": {"text": "Theirs."},
        "o05": {"text": "Ours."},
    }
    tally = reindex.run()
    assert tally.embedded == 2
    assert dest.count() == source.count() - 1
