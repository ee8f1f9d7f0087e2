"""A run's folder: files whole or not at all, and names that cannot leave it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.staging import Folder, safe_name
from tests.support.samples import examples

NASTY = st.one_of(
    st.sampled_from(["..", ".", "...", "/", "//", "../..", "a/b", "/etc", "~", "%2E%2E", "%", "a.", " ", "\\", "*?[]"]),
    st.text(st.sampled_from("./%~ab:+ \\\x00\n*é名"), min_size=1, max_size=8),
    st.text(min_size=1, max_size=8),
)


def on_disk(folder: Folder) -> list[str]:
    """All files below, hidden ones too."""
    root = Path(folder.root)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_written_files_read_back(folder: Folder) -> None:
    folder.write("a/b.bin", b"\x00\xff")
    folder.write_json("c.json", {"x": [1, None, "é"]})
    with folder.open("a/b.bin") as stream:
        assert stream.read() == b"\x00\xff"
    assert folder.read_json("c.json") == {"x": [1, None, "é"]}
    assert folder.read_json("none.json") is None
    assert on_disk(folder) == ["a/b.bin", "c.json"]


def test_nothing_is_visible_before_the_end(folder: Folder) -> None:
    with folder.create("a.bin") as stream:
        stream.write(b"half")
        stream.flush()
        assert not Path(folder.path("a.bin")).exists()
    assert Path(folder.path("a.bin")).read_bytes() == b"half"


@pytest.mark.parametrize("former", [None, b"former"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(folder: Folder, former: bytes | None, error: type[BaseException]) -> None:
    if former:
        folder.write("a.bin", former)

    def half() -> None:
        with folder.create("a.bin") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        half()
    assert on_disk(folder) == folder.names() == ["a.bin"] * bool(former)
    if former:
        assert Path(folder.path("a.bin")).read_bytes() == former


def test_a_failed_sync_shows_no_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("runs/a.json", b"{}")
    assert not Path(folder.path("runs/a.json")).exists()
    assert [name for name in folder.names("runs") if name.endswith(".json")] == []


def test_json_that_is_no_json_is_refused_and_leaves_nothing(folder: Folder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("a.json", float("nan"))
    assert not Path(folder.root).exists()


def test_an_object_store_works_alike() -> None:
    store = Folder.at("memory://reindex-test-staging")
    try:
        store.write("runs/a.bin", b"whole")
        assert store.names("runs") == ["a.bin"]
        store.child("other").move_from(store, "runs/a.bin")
        assert store.names("runs") == []
        with store.child("other").open("runs/a.bin") as stream:
            assert stream.read() == b"whole"
        store.remove("none")
        assert store.read_json("none") is None
        assert store.free_bytes() is None
    finally:
        store.remove()
    assert store.names() == []


def test_names_are_sorted_and_without_their_path(folder: Folder) -> None:
    for name in ("b.json", "a.json", "sub/c.json"):
        folder.write(name, b"")
    assert folder.names() == ["a.json", "b.json", "sub"]
    assert folder.names("sub") == ["c.json"]
    assert folder.names("none") == []


def test_removing_is_fine_when_there_is_nothing(folder: Folder) -> None:
    folder.remove("none.json")
    folder.remove()
    folder.write("sub/a", b"")
    folder.write("b", b"")
    folder.remove("sub")
    assert on_disk(folder) == ["b"]
    folder.remove()
    assert not Path(folder.root).exists()


def test_a_moved_file_is_in_one_place(folder: Folder) -> None:
    one, other = folder.child("one"), folder.child("other")
    one.write("runs/a.bin", b"x")
    other.move_from(one, "runs/a.bin")
    assert on_disk(folder) == ["other/runs/a.bin"]
    assert Path(other.path("runs/a.bin")).read_bytes() == b"x"


def test_newest(folder: Folder) -> None:
    assert folder.newest() == 0.0
    folder.write("old/a", b"")
    folder.write("b", b"")
    os.utime(folder.path("old/a"), (1_000_000, 1_000_000))
    os.utime(folder.path("b"), (2_000_000, 2_000_000))
    assert folder.newest() == pytest.approx(2_000_000)
    folder.write("old/c", b"")
    assert abs(folder.newest() - time.time()) < 60


def test_free_space_is_known_before_the_folder_exists(folder: Folder) -> None:
    free = folder.free_bytes()
    assert free is not None
    assert free > 0


@given(names=st.lists(NASTY, min_size=1, max_size=4))
@examples(200)
def test_a_child_stays_inside(names: list[str]) -> None:
    root = "/srv/staging"
    child = Folder.at(root).child(*names).root
    assert os.path.normpath(child) == child, "a part of the path has a meaning"
    assert child.startswith(root + "/")
    assert child.count("/") == root.count("/") + len(names)
    assert "\x00" not in child


@given(one=NASTY, other=NASTY)
@example(one="..", other="%2E%2E")
@example(one="a/b", other="a%2Fb")
@examples(200)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_nasty_names_are_files_inside(folder: Folder) -> None:
    for name in ("..", ".", "/", "a/../..", "~", "manual__2026-01-01T00:00:00+00:00"):
        folder.child(name, name).write("x", b"")
    assert len(on_disk(folder)) == 6
    assert os.listdir(Path(folder.root).parent) == ["run"]  # noqa: PTH208


@pytest.mark.parametrize("names", [("",), ("a", ""), ("", "a")])
def test_an_empty_name_is_a_level_of_its_own(names: tuple[str, ...]) -> None:
    root = Folder.at("/srv/staging")
    child = os.path.normpath(root.child(*names).root)
    assert child.count("/") == root.root.count("/") + len(names), "the same folder as without the empty name"


@pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00+00:00", "a b", "50%", "a#b?c", "a::b", "s3://x::y"])
def test_a_folder_is_found_again_by_its_url(folder: Folder, run_id: str) -> None:
    # A claim carries the URL; the run that takes over opens the folder by it, and clears it.
    child = folder.child("build_director_index", run_id)
    assert Folder.at(child.url).root == child.root


@given(name=st.text(min_size=150, max_size=400))
def test_long_names_fit_on_a_disk(name: str) -> None:
    escaped = safe_name(name)
    assert len(escaped.encode()) <= 200
    assert safe_name(name + "x") != escaped
