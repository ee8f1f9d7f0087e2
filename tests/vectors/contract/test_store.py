"""What a store promises: collections, claims, and what readers follow."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import pytest

from airflow_reindex.core.claims import Claim
from airflow_reindex.core.failures import ClaimLostError, ConflictError, RequestError
from airflow_reindex.vectors.model.collection import MAX_ID, Collection
from airflow_reindex.vectors.model.store import Pointer, Store
from tests.vectors.contract.samples import Place, claim, contents, created, fill, info, respect, take

ROUNDS = 6


class TestCollections:
    def test_nothing_is_there_before_it_is_prepared(self, bare: Store) -> None:
        bare.check()
        assert bare.claims() == []
        assert bare.followers("src") == []
        assert bare.pointer("alias") is None
        assert bare.find("src") is None
        bare.check_alias("alias")
        with pytest.raises(RequestError):
            bare.open("src")

    def test_prepared_again_nothing_changes(self, store: Store, place: Place) -> None:
        take(store, "dst")
        other = place.store()
        other.prepare()
        assert [found.token for found in other.claims()] == ["token"]
        other.close()

    def test_created_and_found(self, store: Store, place: Place) -> None:
        take(store, "dst")
        wanted = info("dst", metric="euclid", m=8, ef_construction=32)
        store.create("token", wanted)
        store.create("token", wanted)
        assert store.find("dst") == wanted == store.open("dst").info
        other = place.store()
        assert other.find("dst") == wanted
        other.close()
        assert store.find("ds") is None
        with pytest.raises(RequestError, match="has no collection 'ds'"):
            store.open("ds")
        assert store.open("dst").count() == 0

    @pytest.mark.parametrize("change", [{"dimensions": 5}, {"metric": "dot"}, {"embedding_model_id": "other"}])
    @pytest.mark.usefixtures("dest")
    def test_another_collection_of_that_name(self, store: Store, change: dict[str, object]) -> None:
        with pytest.raises(ConflictError, match="made of something else"):
            store.create("token-dst", info("dst", **change))
        assert store.find("dst") == info("dst")

    def test_created_by_a_zombie(self, store: Store) -> None:
        with pytest.raises(ClaimLostError):
            store.create("lost", info("dst"))
        assert store.find("dst") is None

    def test_ids_with_signs(self, store: Store) -> None:
        ids = ["Docs", "docs", "a_b", "a-b", "a.b", "ä b", "a'b", 'a"b', "x/../y", "..", "a.-62"]
        for number, name in enumerate(ids):
            fill(created(store, name), [f"o{number}"])
        assert [list(store.open(name).versions(None, None)) for name in ids] == [[f"o{n}"] for n in range(len(ids))]

    def test_drop(self, store: Store, source: Collection, dest: Collection) -> None:
        fill(source, ["a"])
        before = contents(source)
        fill(dest, ["a", "b"])
        store.drop("dst")
        store.drop("dst")
        assert store.find("dst") is None
        assert contents(store.open("src")) == before
        store.create("token-dst", info("dst", dimensions=6, metric="dot"))
        fresh = store.open("dst")
        assert (fresh.info.dimensions, fresh.count(), fresh.states(None, None)) == (6, 0, {})

    @pytest.mark.usefixtures("dest")
    def test_drop_refuses_what_readers_follow(self, store: Store) -> None:
        store.repoint(Pointer(alias="alias", collection_id="dst", embedding_model_id="model"), "token-dst")
        with pytest.raises(ConflictError, match="alias"):
            store.drop("dst")
        assert store.open("dst").count() == 0

    def test_writers_are_let_in_again(self, store: Store, source: Collection) -> None:
        with store.hold_writers("src", 1.0):
            assert source.count() == 0
        assert len(fill(source, ["a"])) == 1


class TestClaims:
    def test_taken_touched_released(self, store: Store) -> None:
        assert store.take(claim("dst"), respect) is None
        (found,) = store.claims()
        assert replace(found, silent=0.0) == claim("dst")
        assert 0 <= found.silent < 5
        assert store.touch(claim("dst"))
        assert not store.touch(claim("dst", "other"))
        assert not store.touch(claim("other"))
        store.release(claim("dst", "other"))
        assert len(store.claims()) == 1
        store.release(claim("dst"))
        store.release(claim("dst"))
        assert store.claims() == []
        assert not store.touch(claim("dst"))

    def test_judge_decides(self, store: Store) -> None:
        take(store, "dst", "first")
        take(store, "other", "elsewhere")
        with pytest.raises(ConflictError, match="taken"):
            store.take(claim("dst", "second"), respect)
        with pytest.raises(ConflictError, match="being built"):
            store.take(claim("dst", "second"), lambda _: None)
        assert {found.token for found in store.claims()} == {"first", "elsewhere"}
        replaced = store.take(claim("dst", "second"), lambda found: next(c for c in found if c.dest == "dst"))
        assert replaced is not None
        assert replace(replaced, silent=0.0) == claim("dst", "first")
        assert {found.token for found in store.claims()} == {"second", "elsewhere"}
        assert not store.touch(claim("dst", "first"))

    def test_one_of_many_threads_wins(self, place: Place, store: Store) -> None:
        def attempt(number: int) -> bool:
            own = place.store()
            barrier.wait()
            try:
                own.take(claim("dst", f"token-{number}"), respect)
            except ConflictError:
                return False
            finally:
                own.close()
            return True

        for _ in range(3):
            barrier = threading.Barrier(4)
            with ThreadPoolExecutor(4) as pool:
                assert sorted(pool.map(attempt, range(4))) == [False, False, False, True]
            (winner,) = store.claims()
            store.release(winner)

    def test_one_of_two_processes_wins(self, place: Place, store: Store) -> None:
        spawn = multiprocessing.get_context("spawn")
        barrier, ended = spawn.Barrier(2), spawn.Queue()
        other = spawn.Process(target=_attempts, args=(place.connect, place.address, barrier, "a", ended))
        other.start()
        _attempts(place.connect, place.address, barrier, "b", ended)
        won = [ended.get(timeout=600) for _ in range(2)]
        other.join()
        assert sorted(won[0] + won[1]) == [f"dst{number}" for number in range(ROUNDS)]
        assert len(store.claims()) == ROUNDS

    def test_signs_of_life_do_not_get_lost(self, store: Store) -> None:
        for number in range(4):
            take(store, f"dst{number}", f"token{number}")

        def beat(number: int) -> bool:
            return all(store.touch(claim(f"dst{number}", f"token{number}")) for _ in range(5))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(beat, range(4)))
        assert len(store.claims()) == 4


def _attempts(
    connect: Callable[[str], Store], address: str, barrier: Barrier, name: str, ended: Queue[list[str]]
) -> None:
    """Try to take claims at the same time as another process does."""
    store, won = connect(address), []
    for number in range(ROUNDS):

        def respect_this(found: Sequence[Claim], dest: str = f"dst{number}") -> Claim | None:
            return respect([one for one in found if one.dest == dest])

        barrier.wait(60)
        with suppress(ConflictError):
            store.take(claim(f"dst{number}", f"{name}{number}"), respect_this)
            won.append(f"dst{number}")
    store.close()
    ended.put(won)


class TestAliases:
    POINTER = Pointer(alias="alias", collection_id="src", embedding_model_id="model", run_id="first")

    @pytest.mark.usefixtures("source", "dest")
    def test_pointed_and_pointed_elsewhere(self, store: Store) -> None:
        store.check_alias("alias")
        store.repoint(self.POINTER, None)
        assert store.followers("src") == ["alias"]
        store.check_alias("alias")
        there = Pointer(
            alias="alias",
            collection_id="dst",
            embedding_model_id="new",
            previous_collection_id="src",
            previous_model_id="model",
            run_id="second",
        )
        store.repoint(there, "token-dst")
        found = store.pointer("alias")
        assert found is not None
        assert replace(found, switched_at="") == there
        assert found.switched_at.startswith("20")
        assert (store.followers("src"), store.followers("dst")) == ([], ["alias"])

    @pytest.mark.usefixtures("source")
    def test_noting_keeps_the_moment(self, store: Store) -> None:
        store.repoint(self.POINTER, None)
        before = store.pointer("alias")
        assert before is not None
        assert not before.hooked
        store.repoint(replace(before, hooked=True), None)
        assert store.pointer("alias") == replace(before, hooked=True)

    @pytest.mark.usefixtures("source", "dest")
    def test_a_zombie_repoints_nothing(self, store: Store) -> None:
        store.repoint(self.POINTER, None)
        before = store.pointer("alias")
        take(store, "dst", "new owner")
        with pytest.raises(ClaimLostError):
            store.repoint(replace(self.POINTER, collection_id="dst"), "token-dst")
        assert store.pointer("alias") == before

    @pytest.mark.usefixtures("source")
    def test_several_aliases(self, store: Store) -> None:
        for name in ("b", "a"):
            store.repoint(replace(self.POINTER, alias=name), None)
        assert store.followers("src") == ["a", "b"]

    @pytest.mark.usefixtures("source")
    def test_names_that_cannot_be_aliases(self, store: Store) -> None:
        for name in ("", "src"):
            with pytest.raises(RequestError):
                store.check_alias(name)

    def test_no_such_collection(self, store: Store) -> None:
        with pytest.raises(RequestError):
            store.repoint(replace(self.POINTER, collection_id="gone"), None)
        assert store.pointer("alias") is None


def test_long_ids(store: Store) -> None:
    collection = created(store, "dst")
    keys = ["k" * (MAX_ID - 1) + end for end in "ab"]
    assert set(fill(collection, keys, parts=3)) == set(keys)
    assert collection.integrity_errors(None, None).incomplete == ()
    assert len(contents(collection)[2]) == 8
