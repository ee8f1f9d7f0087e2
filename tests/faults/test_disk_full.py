"""
Disks that are really full: small file systems of the tests' own, mounted where a build writes, and a file that fills
them. The error names the place, what is done stays done, and with room the build goes on.

The server's tmpdir matters only through its binary log, whose cache of a long transaction lies there: rows that come in
the key's order are neither sorted nor copied. So the czar here writes a binary log.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.failures import ReindexError
from airflow_reindex.core.staging import RESERVE_BYTES
from airflow_reindex.director.extract import run_buffer
from airflow_reindex.director.load import loader
from airflow_reindex.director.model.runs import Manifest
from sandbox.catalog.catalog import CatalogSpec
from sandbox.servers.cluster import Sandbox
from tests.faults.contents import Changing
from tests.support.build import Build
from tests.support.claims import before_first_call

MIB = 1 << 20
#: Enough for the reserve that stays free, and for what a test writes.
SIZE = RESERVE_BYTES + 200 * MIB
#: Rows for several files of some hundred KiB each.
SPEC = CatalogSpec(database="sky_full", rows=60_000, chunks=12, empty_chunks=0)
_SUB_CHUNKS = itertools.count(1)


class Disk:
    """
    A small file system.

    :param folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, left: int) -> None:
        """Take all room but for some bytes."""
        with (self.folder / "filler").open("ab") as file:
            size = file.tell()
            while (take := self._room() - left) > 0:
                try:
                    os.posix_fallocate(file.fileno(), size, take)
                except OSError as error:
                    # The server may have taken some since.
                    if error.errno != errno.ENOSPC:
                        raise
                else:
                    return

    def _room(self) -> int:
        room = os.statvfs(self.folder)
        return room.f_bavail * room.f_frsize

    def free(self) -> None:
        """Give it back."""
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Disk]:
    """A file system of a size."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a file system")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    told = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        pytest.skip(f"no file system can be mounted here: {told.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sandbox's folder."""
    return tmp_path_factory.mktemp("cramped") / "root"


@pytest.fixture(scope="module")
def czar_disk(root: Path) -> Iterator[Disk]:
    """All files of the czar's server, but for its temporary ones."""
    with mounted(root / "servers" / "czar", RESERVE_BYTES + 500 * MIB) as disk:
        yield disk


@pytest.fixture(scope="module")
def tmp_disk(czar_disk: Disk, root: Path) -> Iterator[Disk]:
    """The czar's tmpdir."""
    with mounted(root / "czar-tmp", 4 * MIB) as disk:
        yield disk


@pytest.fixture(scope="module")
def cramped(czar_disk: Disk, tmp_disk: Disk, root: Path, mariadb_template: Path) -> Iterator[Sandbox]:
    """Servers of these tests alone."""
    options = {"log_bin": "ON", "binlog_format": "ROW", "tmpdir": str(tmp_disk.folder)}
    sandbox = Sandbox(root, workers=1, czar_options=options, template=mariadb_template)
    try:
        yield sandbox.up(owner_pid=os.getpid())
    finally:
        sandbox.destroy()


@pytest.fixture(scope="module")
def sky(cramped: Sandbox) -> Changing:
    """A catalog that changes."""
    return Changing(cramped, SPEC)


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Disk]:
    """The runs' folders."""
    with mounted(tmp_path / "staging", SIZE) as disk:
        yield disk


@pytest.fixture
def run(cramped: Sandbox, sky: Changing, staging: Disk, czar_disk: Disk, tmp_disk: Disk) -> Iterator[Build]:
    """A build over a live index that is out of date; its server's disk is as the connection's `data_dir` says."""
    Build(cramped, staging.folder, SPEC.database, "before", {"rebuild": 1, "force_takeover": 1}).run()
    sky.change(list(sky.placement), next(_SUB_CHUNKS))
    yield Build(cramped, staging.folder, SPEC.database, "run", {"rebuild": 1, "force_takeover": 1})
    for disk in (staging, czar_disk, tmp_disk):
        disk.free()


def fails(sky: Changing, step: Callable[..., object], *values: int) -> str:
    """Do a step that fails for want of room; what is told. Readers notice nothing."""
    before = sky.proof()
    with pytest.raises(ReindexError) as caught:
        step(*values)
    assert sky.proof() == before
    return str(caught.value)


def finish(sky: Changing, run: Build) -> None:
    """All that is left, and the proof."""
    assert run.complete().rows == SPEC.rows
    assert_done(sky, run)


def assert_done(sky: Changing, run: Build) -> None:
    """The index is what the catalog says, and nothing else is left."""
    sky.check_done(run)
    assert list(run.sandbox.czar.infile_dir.glob("**/reindex-*")) == []
    sky.check_files()


@pytest.mark.parametrize("left", [RESERVE_BYTES - MIB, 0], ids=["about to be full", "full"])
def test_staging_is_full_while_extracting(
    sky: Changing, run: Build, staging: Disk, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = run.plan()
    run.rows_in_memory = 4_000
    calls = itertools.count()
    real = Manifest

    def fill(*values: Any, **named: Any) -> Manifest:
        # Two runs are staged by then.
        if next(calls) == 2:
            staging.fill(left)
        return real(*values, **named)

    monkeypatch.setattr(run_buffer, "Manifest", fill)
    told = fails(sky, run.extract, 0)
    assert str(staging.folder) in told
    assert "make room" in told
    staged = run.staged_chunks()
    assert 0 < len(staged) < plan.chunks
    staging.free()
    run.extract_all()
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    finish(sky, run)


@pytest.mark.parametrize("local", [0, 1], ids=["shared folder", "temporary folder"])
@pytest.mark.parametrize("left", [RESERVE_BYTES - MIB, 100_000], ids=["about to be full", "full"])
def test_inbox_is_full_while_loading(
    sky: Changing, run: Build, tmp_path: Path, left: int, local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp" if local else run.sandbox.czar.infile_dir / f"small-{left}"
    with mounted(folder, SIZE) as disk:
        if local:
            monkeypatch.setattr(tempfile, "tempdir", str(folder))
            run.request = replace(run.request, local=True)
        run.servers = replace(run.servers, staging_dir=str(folder), server_staging_dir=str(folder))
        run.to_load()
        # After the look at the room, as somebody else may do.
        if left > MIB:
            disk.fill(left)
        before_first_call(monkeypatch, loader, "write_text", lambda: disk.fill(left))
        told = fails(sky, run.load, 0)
        assert str(folder) in told
        assert "make room" in told
        disk.free()
        assert [path.name for path in folder.rglob("reindex-*")] == []
        finish(sky, run)


def test_czar_is_about_to_be_full(sky: Changing, run: Build, czar_disk: Disk) -> None:
    run.servers = replace(run.servers, data_dir=str(run.sandbox.czar.data_dir))
    # The shared folder is another disk.
    with mounted(run.sandbox.czar.infile_dir, SIZE):
        czar_disk.fill(RESERVE_BYTES - MIB)
        told = fails(sky, run.plan)
        assert told.startswith("the index would not fit: the disk of the czar's MySQL server has ")
        czar_disk.free()
        run.to_load()
        czar_disk.fill(RESERVE_BYTES - MIB)
        told = fails(sky, run.load, 0)
        assert told.startswith("the disk of the czar's MySQL server has ")
        assert "make room, then clear the failed tasks" in told
        czar_disk.free()
        finish(sky, run)


def test_czar_is_full(sky: Changing, run: Build, czar_disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody can see its disk, and the shared folder is another one.
    with mounted(run.sandbox.czar.infile_dir, SIZE):
        run.to_load()
        before_first_call(monkeypatch, loader, "load_file", lambda: czar_disk.fill(0))
        told = fails(sky, run.load, 0)
        assert "the czar's server has no room left: make some, then clear the failed tasks" in told
        czar_disk.free()
        finish(sky, run)


def test_tmpdir_of_the_czar_is_full(sky: Changing, run: Build, tmp_disk: Disk) -> None:
    run.to_load()
    tmp_disk.fill(0)
    told = fails(sky, run.load, 0)
    assert "no room left" in told
    tmp_disk.free()
    finish(sky, run)


def test_tmpdir_matters_to_the_binary_log_alone(sky: Changing, run: Build, tmp_disk: Disk) -> None:
    def connect() -> Any:
        # An account that may leave the log alone.
        connection = run.sandbox.czar.connect(local_infile=True)
        connection.query("SET SESSION sql_log_bin = 0")
        return connection

    run.servers = replace(run.servers, czar=connect)
    tmp_disk.fill(0)
    run.to_load()
    run.load_all()
    run.publish()
    # The tests' own look at the index sorts it there.
    tmp_disk.free()
    assert_done(sky, run)
