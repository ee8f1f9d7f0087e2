"""Staging on an object store: as whole, as private and as recoverable as on a disk."""

from __future__ import annotations

import gc
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.reader import JsonFiles
from airflow_reindex.core.staging import PUT_BYTES, Folder
from airflow_reindex.director.coordination.scheduler import GroupScheduler
from airflow_reindex.director.extract import task
from airflow_reindex.director.model.runs import manifests
from airflow_reindex.director.mysql.client import session
from airflow_reindex.hooks.staging import open_folder
from airflow_reindex.operators.base import skip_dry_run
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.hooks.flaky import FlakyStore
from tests.support.build import Factory, assert_same, clean_czar
from tests.support.wait import wait_until

pytestmark = pytest.mark.server

RUN = "manual__2026-01-01T00:00:00+00:00 \u00e9/x"
numbers = itertools.count()


@pytest.fixture(scope="module")
def store() -> Iterator[FlakyStore]:
    with FlakyStore() as store:
        store.client().create_bucket(Bucket="staging")
        yield store


@pytest.fixture
def folder(store: FlakyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A folder that is not there yet."""
    monkeypatch.setenv("AIRFLOW_CONN_STAGE", json.dumps(store.airflow_connection()))
    yield open_folder(f"s3://stage@staging/reindex/{next(numbers)}")
    store.fails = lambda *_: 0


def test_files_read_back(folder: Folder) -> None:
    run = folder.child("dag", RUN)
    run.write_json("a/b.json", {"x": [1, None, "\u00e9"]})
    assert run.read_json("a/b.json") == {"x": [1, None, "\u00e9"]}
    assert run.read_json("a/none.json") is None
    assert (run.names(), run.names("a"), run.names("none")) == (["a"], ["b.json"], [])
    assert [one.url for one in folder.child("dag").folders()] == [run.url]
    assert run.newest() > 0
    assert run.free_bytes() is None
    run.ensure_free_space(1 << 60)


def test_small_files_are_read_again_when_they_have_changed(folder: Folder) -> None:
    parsed: list[str] = []

    def parse(name: str, value: int) -> int:
        parsed.append(name)
        return value

    files = JsonFiles(folder, "tasks", parse)
    assert files.read() == {}
    for number in range(5):
        folder.write_json(f"tasks/{number}.json", number)
    assert files.read() == {f"{number}.json": number for number in range(5)}
    # As long as the one before, and within the same second.
    folder.write_json("tasks/3.json", 7)
    folder.remove("tasks/4.json")
    assert files.read() == {"0.json": 0, "1.json": 1, "2.json": 2, "3.json": 7}
    assert sorted(parsed) == ["0.json", "1.json", "2.json", "3.json", "3.json", "4.json"]
    assert folder.read_many(["tasks/0.json", "tasks/none.json"]) == {"tasks/0.json": b"0"}


def test_a_url_leads_back_to_its_folder_and_nowhere_else(folder: Folder) -> None:
    run = folder.child("dag", RUN)
    run.write("a", b"1")
    assert run.url.startswith("s3://stage@staging/reindex/")
    assert open_folder(run.url).names() == ["a"]
    inside = folder.inside(run.url)
    assert inside is not None
    assert inside.names() == ["a"]
    for url in ("s3://other@staging/reindex/x", f"{folder.url}/../x", folder.url, f"{folder.url}x/y", "/etc"):
        assert folder.inside(url) is None


def test_large_files_come_and_go_in_pieces(folder: Folder, store: FlakyStore) -> None:
    store.requests.clear()
    with folder.create("big") as stream:
        for _ in range(5):
            stream.write(bytes(PUT_BYTES // 2))
        stream.write(b"end")
        assert folder.names() == [], "it is not there before it is whole"
    assert sum(request.startswith("PUT") for request in store.requests) >= 2
    with folder.open("big") as stream:
        stream.seek(-3, 2)
        assert stream.read() == b"end"


@pytest.mark.parametrize("size", [10, 3 * PUT_BYTES])
def test_an_error_leaves_nothing(folder: Folder, store: FlakyStore, size: int) -> None:
    def half() -> None:
        with folder.create("half") as stream:
            stream.write(bytes(size))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        half()
    gc.collect()
    assert folder.names() == []
    assert not store.client().list_multipart_uploads(Bucket="staging").get("Uploads")


def test_what_others_write_is_seen_moved_and_removed(folder: Folder) -> None:
    other, third = open_folder(folder.url), folder.child("third")
    assert folder.names() == []
    other.write("a/1", b"1")
    assert folder.names("a") == ["1"]
    other.write("a/2", b"2")
    third.move_from(folder, "a/2")
    assert (other.names("a"), third.names("a")) == (["1"], ["2"])
    other.write("a/3", b"3")
    folder.remove("a")
    assert other.names("a") == []
    folder.remove("a")
    folder.remove()
    assert other.names() == []


def test_what_others_have_written_since_a_listing_is_found(folder: Folder, store: FlakyStore) -> None:
    folder.write("runs/one", b"1")
    assert folder.names("runs") == ["one"]
    bucket, _, key = folder.path("runs/two").partition("/")
    store.client().put_object(Bucket=bucket, Key=key, Body=b"2")
    with folder.open("runs/two") as stream:
        assert stream.read() == b"2"


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_cannot_answer_is_asked_again(folder: Folder, store: FlakyStore, status: int) -> None:
    turns = itertools.count()
    store.fails = lambda *_: status if next(turns) % 2 == 0 else 0
    with folder.create("big") as stream:
        stream.write(bytes(2 * PUT_BYTES))
    folder.write_json("a", [1])
    assert folder.read_json("a") == [1]
    assert folder.names() == ["a", "big"]


def test_a_build_on_an_object_store(
    folder: Folder, store: FlakyStore, sandbox: Sandbox, build: Factory, catalog: CatalogFactory
) -> None:
    """One answer in nine is an error; a killed extract task is done again; the index is right."""
    made = catalog(CatalogSpec(rows=6_000, chunks=12))
    turns = itertools.count()
    with clean_czar(sandbox):
        run = build(made.spec.database, rebuild=1)
        run.folder = folder.child("build_director_index", RUN)
        run.rows_in_memory = 3_000
        run.plan()
        store.fails = lambda *_: 503 if next(turns) % 9 == 0 else 0
        run.extract_all()
        (one, *_) = manifests(run.folder)
        run.folder.remove(one.name)
        run.extract(one.group)
        run.complete()
        assert_same(run.index(), truth(made.spec).index_rows())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://nobody@staging/x", "there is no Airflow connection 'nobody'"),
        ("s3://stage@", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("nothing://bucket/x", "needs a provider"),
    ],
)
def test_a_wrong_url_is_explained(folder: Folder, url: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_folder(url)


def test_on_a_disk_files_are_their_owners_alone(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "staging" / "deep"))
    folder.child("a").write("b/c", b"1")
    paths = [tmp_path / "staging", *(tmp_path / "staging").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}


def test_a_task_of_a_large_run_asks_for_no_more(
    folder: Folder,
    store: FlakyStore,
    sandbox: Sandbox,
    build: Factory,
    catalog: CatalogFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests are slow and cost money: a task makes as many in a run of a thousand tasks as in a small one."""
    monkeypatch.setattr(task, "WAIT_SECONDS", 0.1)
    made = catalog(CatalogSpec(rows=6_000, chunks=12))

    def requests(work: Callable[[], None]) -> list[str]:
        begin = len(store.requests)
        work()
        return store.requests[begin:]

    with clean_czar(sandbox), ExitStack() as stack:
        run = build(made.spec.database, rebuild=1)
        run.folder = folder.child("build_director_index", RUN)
        run.rows_per_task = 1_000
        run.plan()

        def extract(group: int) -> None:
            skip_dry_run(run.folder)
            run.extract(group)

        few = requests(lambda: extract(0))
        bucket, _, root = run.folder.path("").partition("/")
        for number in range(1_000, 2_000):
            for name in (f"tasks/extract-{number}.json", f"runs/g{number}-x-0.json"):
                store.insert(bucket, f"{root.rstrip('/')}/{name}", b"{}")
        many = requests(lambda: extract(1))
        # A listing has a thousand names a page.
        assert len(many) <= len(few) + 4
        # Nor does a task that waits read the groups, which grow with the catalog: it looks whether others have begun.
        for worker in sandbox.workers:
            for _ in range(run.servers.worker_connections):
                other = GroupScheduler(stack.enter_context(session(run.servers.czar)), "other build", 4)
                assert other.acquire_slot(worker)
        waiting = threading.Thread(target=run.extract, args=(2,), daemon=True)
        begin = len(store.requests)
        waiting.start()
        # Several looks; a listing of a thousand names takes seconds on a busy machine.
        wait_until(lambda: len(store.requests) > begin + 16)
        groups = [request for request in store.requests[begin:] if "/groups-" in request]
        stack.close()
        waiting.join(180)
        assert len(groups) <= len([request for request in few if "/groups-" in request])
        assert run.folder.read_json("tasks/extract-2.json")["rows"] > 0
