"""A task that dies between LanceDB's two commits: what it has half done is its own, and not somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import pytest

from airflow_reindex.vectors.model.collection import Collection, DestState
from airflow_reindex.vectors.stores.lancedb import LanceStore, registry
from airflow_reindex.vectors.stores.lancedb.database import one_of
from airflow_reindex.vectors.stores.lancedb.marks import Marks
from airflow_reindex.vectors.sync.decide import Rules, decide
from tests.vectors.contract.samples import TOKEN, created, embedded, failed, fill, item, take

NIGHTLY = Rules(
    embedding_config_hash=b"r" * 16, plan_token="next", preserve_newer=True, drop_gone=True, drop_failed=True
)

pytestmark = pytest.mark.database


@pytest.fixture
def dest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """A destination with an item."""
    monkeypatch.setattr(registry, "_SETTLE_SECONDS", 0.0)
    store = LanceStore(str(tmp_path))
    store.prepare()
    made = created(store, "dst")
    fill(made, ["a"])
    return made


def died(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Let a task die after its rows are committed, and before their marks are."""
    remember = Marks.remember

    def at_most_announce(marks: Marks, what: Any) -> None:
        if any(mark.stage != "pending" for mark in what.values()):
            raise KeyboardInterrupt
        remember(marks, what)

    def forget(marks: Marks, keys: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Marks, "remember", at_most_announce)
        patch.setattr(Marks, "forget", forget)
        with pytest.raises(KeyboardInterrupt):
            work()


def state(dest: Collection, key: str) -> DestState:
    return dest.states(None, None)[key]


@pytest.mark.parametrize("key", ["a", "new"])
def test_a_row_that_landed_without_its_mark(dest: Collection, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    died(monkeypatch, lambda: dest.put(TOKEN, [embedded(item(key, "half"))], only_unchanged=True))
    found = state(dest, key)
    assert not found.is_foreign
    # The source has the same, has something else by now, or has it no more.
    for source in ({key: found.row or b""}, {key: b"x" * 16}):
        assert list(decide(source, {key: found}, NIGHTLY).embed) == [key]
    assert list(decide({}, {key: found}, NIGHTLY).delete) == [key]
    assert dest.count_failed("next") == 0
    assert dest.put(TOKEN, [embedded(item(key, "whole"))], only_unchanged=True) == []
    (one,) = dest.items([key])
    assert one.payload == "whole"


def test_a_row_that_did_not_land(dest: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was announced, and the task died: the row is the older one, or there is none."""
    marks: Any = dest
    before = state(dest, "a")
    marks._marks.announce({"a": (before.row, b"n" * 16), "new": (None, b"n" * 16)})
    for key in ("a", "new"):
        assert not state(dest, key).is_foreign
        assert list(decide({key: b"n" * 16}, {key: state(dest, key)}, NIGHTLY).embed) == [key]


def test_a_removal_without_its_mark(dest: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    died(monkeypatch, lambda: dest.delete(TOKEN, ["a"], only_unchanged=True))
    assert dest.count() == 0
    found = state(dest, "a")
    assert list(decide({}, {"a": found}, NIGHTLY).delete) == ["a"]
    assert list(decide({"a": b"x" * 16}, {"a": found}, NIGHTLY).embed) == ["a"], "it is in the source again"


def test_a_failure_without_its_mark(dest: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    died(monkeypatch, lambda: dest.fail(TOKEN, {"a": failed()}, only_unchanged=True))
    assert dest.count() == 0
    assert list(decide({"a": b"x" * 16}, {"a": state(dest, "a")}, NIGHTLY).embed) == ["a"]


def test_what_others_wrote_after_it_is_theirs(
    dest: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died(monkeypatch, lambda: dest.put(TOKEN, [embedded(item(key, "half")) for key in ("a", "b")]))
    table = lancedb.connect(tmp_path).open_table("dst")
    table.update(where=f"{one_of('object_id', ['a'])} AND is_average", values={"payload": '"theirs"'})
    table.delete(one_of("object_id", ["b"]))
    found = dest.states(None, None)
    decision = decide({"a": b"x" * 16, "b": b"y" * 16}, found, NIGHTLY)
    assert list(decision.written) == ["a"]
    # Whether it had landed before it was removed, nobody knows: it is done again.
    assert list(decision.embed) == ["b"]
    assert dest.put(TOKEN, [embedded(item("a"))], only_unchanged=True) == ["a"]


def test_marks_of_a_table_that_was_dropped_say_nothing_of_the_next(dest: Collection, tmp_path: Path) -> None:
    lancedb.connect(tmp_path).drop_table("dst")
    store = LanceStore(str(tmp_path))
    assert created(store, "dst").states(None, None) == {}


def test_two_databases_have_nothing_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two schemas of one PostgreSQL database."""
    monkeypatch.setattr(registry, "_SETTLE_SECONDS", 0.0)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = (LanceStore(str(tmp_path / name)) for name in ("one", "other"))
    for store in (one, other):
        store.prepare()
    fill(created(one, "dst"), ["a"])
    assert (other.claims(), other.list_collections(), other.find("dst")) == ([], [], None)
    take(other, "dst", "theirs")
    assert [claim.token for claim in one.claims()] == [TOKEN]
