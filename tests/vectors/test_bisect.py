"""Setting bad items apart from good ones, with models and stores of this file: no server, no waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.failures import Code, DataError, ReindexError, RequestError, TransientError
from airflow_reindex.vectors.embedding.bisect import PROBE, Prepared, embed_items
from airflow_reindex.vectors.embedding.pipeline import Batch, EmbeddingPipeline, embed_stream
from airflow_reindex.vectors.model.collection import Embedded, Item, Stage, SyncState, Vectors
from airflow_reindex.vectors.model.embedding_model import EmbeddingModel, Kind, ModelSpec, SuspectError
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.model.loader import Content
from airflow_reindex.vectors.model.splitting import Splitter
from airflow_reindex.vectors.sync.bisect_writes import write_items
from tests.support.samples import examples
from tests.support.wait import wait_until

DIMENSIONS = 3


def vector_of(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


class FakeModel:
    """
    Fails as the texts say: `refuse` is answered by an error for the whole request, `nan`, `short` and `zero` spoil
    the text's own vector.
    """

    def __init__(self, batch_size: int = 4, in_flight: int = 1) -> None:
        self.spec = ModelSpec(
            model_id="fake", backend="fake", name="fake", dimensions=DIMENSIONS, batch_size=batch_size,
            in_flight=in_flight,
        )  # fmt: skip
        self.requests: list[list[str]] = []
        self.broken: Exception | None = None

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        self.requests.append(list(texts))
        assert 1 <= len(texts) <= self.spec.batch_size
        if "slow" in texts:
            time.sleep(0.1)
        if self.broken:
            raise self.broken
        for word, error in (("away", TransientError), ("hang", SuspectError), ("refuse", DataError)):
            if any(word in text for text in texts):
                raise error(f"{word}: one of {len(texts)}")
        rows = [self._row(text) for text in texts]
        if len({len(row) for row in rows}) > 1:
            raise DataError("the vectors have different lengths")
        return np.array(rows, dtype=np.float32)

    def _row(self, text: str) -> list[float]:
        row = vector_of(text)
        if "nan" in text:
            row[0] = float("nan")
        return row[:2] if "short" in text else [0.0] * DIMENSIONS if "zero" in text else row

    def close(self) -> None:
        """Nothing to close."""


def item(key: str) -> Item:
    return Item(key, None, f'{{"at": "{key}"}}', b"v" * 16)


def prepared(*texts: Sequence[str]) -> list[Prepared]:
    """Items named by their place."""
    made = (item(str(place)) for place in range(len(texts)))
    return [Prepared(one, parts, SyncState(one.version, b"r")) for one, parts in zip(made, texts, strict=True)]


def bad_of(failed: Iterable[FailedItem]) -> dict[str, str]:
    return {one.object_id: one.detail for one in failed}


PARTS = st.lists(
    st.sampled_from(["a", "bb", "ccc", "d d", "refuse", "hang", "nan", "short", "zero"]), min_size=1, max_size=3
)


@examples(300)
@given(texts=st.lists(PARTS, max_size=12), batch_size=st.integers(1, 5))
@example(texts=[["a"], ["a"], ["short"], ["short", "short"]], batch_size=4)
def test_exactly_the_bad_items_are_set_apart(texts: list[list[str]], batch_size: int) -> None:
    model = FakeModel(batch_size)
    good, bad = embed_items(model, prepared(*texts)) if texts else ([], [])
    spoiled = {"refuse", "hang", "nan", "short", "zero"}
    wanted = {str(place) for place, parts in enumerate(texts) if spoiled & set(parts)}
    assert [one.object_id for one in bad] == sorted(wanted, key=int), "each once"
    assert all(one.failure_stage == "on_inference" and one.detail for one in bad)
    assert {one.item.object_id for one in good} == {str(place) for place in range(len(texts))} - wanted
    for one in good:
        assert one.vectors.tolist() == [vector_of(text) for text in texts[int(one.item.object_id)]]
        assert np.allclose(one.average, np.mean([vector_of(text) for text in texts[int(one.item.object_id)]], axis=0))


def test_the_detail_says_what_is_wrong() -> None:
    _, bad = embed_items(FakeModel(), prepared(["ok"], ["refuse"], ["nan"], ["zero"], ["short"]))
    assert bad_of(bad) == {
        "1": "refuse: one of 1",
        "2": "model 'fake': the model's vector has NaN or infinite numbers",
        "3": "model 'fake': the model's vector is zero, which has no direction to compare",
        "4": "model 'fake': the model returned 2 numbers instead of 3",
    }
    assert bad[0].item_info == {"at": "1"}


@pytest.mark.parametrize("text", ["a plain text", "[" * 100_000])
def test_storage_metadata_that_are_no_json_hide_no_failure(text: str) -> None:
    one = FailedItem.of(replace(item("a"), storage_meta_json=text), Stage.INFERENCE, "refused")
    assert (one.item_info, one.detail) == (text, "refused")


def test_one_bad_item_of_many_costs_few_requests() -> None:
    model = FakeModel(batch_size=64)
    good, bad = embed_items(model, prepared(*[["refuse"] if n == 40 else ["fine"] for n in range(64)]))
    assert (len(good), len(bad)) == (63, 1)
    assert len(model.requests) <= 2 * 6 + 2, "halving, and one probe"


@pytest.mark.parametrize(
    ("error", "raised", "code"),
    [
        (SuspectError("hangs"), TransientError, Code.BUSY),
        (SuspectError("hangs", code=Code.CONNECTION), TransientError, Code.CONNECTION),
        (DataError("refuses"), RequestError, Code.REFUSED),
    ],
)
def test_a_model_that_fails_at_everything_is_not_the_items_fault(
    error: Exception, raised: type[ReindexError], code: Code
) -> None:
    model = FakeModel()
    model.broken = error
    with pytest.raises(raised, match=r"fails at everything: (hangs|refuses)") as caught:
        embed_items(model, prepared(["a"], ["b"]))
    assert caught.value.code is code
    assert model.requests[-1] == [PROBE]


@pytest.mark.parametrize("error", [TransientError("away"), RequestError("wrong key")])
def test_other_errors_stop_the_work(error: Exception) -> None:
    model = FakeModel()
    model.broken = error
    with pytest.raises(type(error), match=str(error)):
        embed_items(model, prepared(["a"], ["b"]))
    assert len(model.requests) == 1


def test_a_model_of_another_length_is_not_the_items_fault() -> None:
    class Longer(FakeModel):
        def _row(self, text: str) -> list[float]:
            return [*super()._row(text), 4.0]

    for count in (1, 2, 9):
        with pytest.raises(RequestError, match=r"returned 4 numbers instead of 3\. Set 'dimensions'"):
            embed_items(Longer(), prepared(*[["a"]] * count))


def embedded(*keys: str) -> list[Embedded]:
    return [Embedded(item(key), np.ones((1, DIMENSIONS), np.float32), SyncState(b"v" * 16, b"r")) for key in keys]


@examples(200)
@given(bad=st.sets(st.integers(0, 19)), count=st.integers(0, 20))
def test_exactly_what_the_store_refuses_is_set_apart(bad: set[int], count: int) -> None:
    stored: list[str] = []

    def put(batch: Sequence[Embedded]) -> None:
        refused = [one.item.object_id for one in batch if int(one.item.object_id) in bad]
        if refused:
            raise DataError(f"refused: {refused[0]}")
        stored.extend(one.item.object_id for one in batch)

    landed, failed = write_items(put, embedded(*map(str, range(count))))
    assert stored == [one.item.object_id for one in landed] == [str(n) for n in range(count) if n not in bad]
    assert bad_of(failed) == {str(n): f"refused: {n}" for n in sorted(bad) if n < count}
    assert {one.failure_stage for one in failed} <= {"on_upsert"}


def test_a_store_that_is_away_is_not_the_items_fault() -> None:
    def put(batch: Sequence[Embedded]) -> None:
        raise TransientError("away")

    with pytest.raises(TransientError):
        write_items(put, embedded("a", "b"))


class FakeSource:
    """Items whose content is their id, unless their content was given."""

    config, outside = "", False

    def __init__(self, contents: dict[str, str | DataError] | None = None, gone: Iterable[str] = ()) -> None:
        self.contents, self.gone = contents or {}, set(gone)
        self.read = 0

    def items(self, keys: Sequence[str]) -> list[Item]:
        self.read += len(keys)
        return [item(key) for key in reversed(keys) if key not in self.gone]

    def load(self, items: Sequence[Item]) -> list[Content | DataError]:
        found = [self.contents.get(one.object_id, one.object_id) for one in items]
        return [text if isinstance(text, DataError) else Content(text, "tag") for text in found]

    def versions(self, items: Sequence[Item]) -> list[str | DataError]:
        return ["tag"] * len(items)


def stream(
    source: FakeSource, keys: Sequence[str], model: EmbeddingModel, each: Callable[[Batch], None] = lambda _: None
) -> tuple[list[str], list[str], int]:
    """Ids that were embedded, ids that failed, and how many were gone."""
    good: list[str] = []
    bad: list[str] = []
    gone = 0
    pipeline = EmbeddingPipeline(model=model, loader=source, splitter=Splitter(10))
    for batch in embed_stream(source, keys, pipeline, lambda one, tag: SyncState(one.version, b"r", tag)):  # type: ignore[arg-type]
        each(batch)
        assert all(one.sync.content == "tag" for one in batch.embedded)
        good += [one.item.object_id for one in batch.embedded]
        bad += [one.object_id for one in batch.failed]
        gone += batch.gone
    return good, bad, gone


@examples(60)
@given(
    kinds=st.lists(st.sampled_from(["fine", "long", "gone", "missing", "blank", "refuse", "nan"]), max_size=40),
    batch_size=st.integers(1, 7),
    in_flight=st.integers(1, 3),
)
def test_every_key_ends_once(kinds: list[str], batch_size: int, in_flight: int) -> None:
    keys = [f"{place:03}" for place in range(len(kinds))]
    texts: dict[str, str | DataError] = {
        "long": "word " * 30, "missing": DataError("no object"), "blank": " ", "refuse": "refuse", "nan": "nan"
    }  # fmt: skip
    named = dict(zip(keys, kinds, strict=True))
    source = FakeSource({k: texts[kind] for k, kind in named.items() if kind in texts}, gone=_of(named, "gone"))
    good, bad, gone = stream(source, keys, FakeModel(batch_size, in_flight))
    assert good == _of(named, "fine", "long"), "in the order of the keys"
    assert sorted(bad) == _of(named, "missing", "blank", "refuse", "nan")
    assert gone == len(_of(named, "gone"))


def _of(named: dict[str, str], *kinds: str) -> list[str]:
    return [key for key, kind in named.items() if kind in kinds]


def test_a_request_carries_several_items_but_no_item_is_cut_over_two_units() -> None:
    model = FakeModel(batch_size=4)
    source = FakeSource({"2": "first part second one third part fourth one fifth part"})
    good, _, _ = stream(source, [str(n) for n in range(6)], model)
    assert good == [str(n) for n in range(6)]
    assert sorted(map(len, model.requests)) == [1, 2, 3, 4], "0 and 1; the long one in two; then 3, 4 and 5"
    assert sorted(text for request in model.requests for text in request if len(text) == 1) == list("01345")


def test_what_was_embedded_before_an_error_is_handed_on() -> None:
    """A model that is paid for must not be asked twice: whatever came before the failure gets written."""
    model = FakeModel(batch_size=1, in_flight=3)
    handed: list[str] = []
    with pytest.raises(TransientError):
        # While the first is slow, the others are done, the one that fails, too.
        stream(
            FakeSource({"0": "slow", "3": "away"}), [str(n) for n in range(9)], model,
            lambda batch: handed.extend(one.item.object_id for one in batch.embedded),
        )  # fmt: skip
    assert handed == ["0", "1", "2"]


def test_the_reader_stays_only_a_little_ahead() -> None:
    source, model = FakeSource(), FakeModel(batch_size=1)
    seen = []
    stream(source, [f"{n:05}" for n in range(3000)], model, lambda _: seen.append((source.read, len(model.requests))))
    assert seen[0][0] <= 256, "the first page"
    assert all(read <= asked + 256 + 8 for read, asked in seen)


def test_an_error_of_the_reader_or_the_caller_ends_all_threads() -> None:
    class Broken(FakeSource):
        def items(self, keys: Sequence[str]) -> list[Item]:
            raise TransientError(f"the source is away, asked for {keys}")

    before = threading.active_count()
    with pytest.raises(TransientError, match="the source is away"):
        stream(Broken(), ["a"], FakeModel())

    def stop(_: Batch) -> None:
        raise RuntimeError("the caller")

    with pytest.raises(RuntimeError, match="the caller"):
        stream(FakeSource(), [str(n) for n in range(1000)], FakeModel(batch_size=1), stop)
    wait_until(lambda: threading.active_count() == before)
