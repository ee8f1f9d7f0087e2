"""A run's staging folder: everything that a run leaves behind until its index is published."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.dircache import DirCache

from airflow_reindex.core.failures import SpaceError

#: Bytes that stay free on a disk: its other users need space, too.
RESERVE_BYTES = 256 << 20
#: Bytes that are sent to an object store at a time, and the least that is fetched from it at a time. An S3 upload has
#: at most 10,000 parts, none below 5 MiB but the last.
PUT_BYTES, GET_BYTES = 8 << 20, 256 << 10
#: File systems allow 255 bytes for a name, and a temporary file's name is longer than the final one.
_LONGEST_NAME = 200


def full_message(where: str, free: int, need: int) -> str:
    """The message for a disk that has ``free`` bytes left, fewer than ``need`` and the reserve."""
    return (
        f"{where} has {free / 1e9:.2f} GB left, {need / 1e9:.2f} GB are needed now, and {RESERVE_BYTES / 1e9:.2f} GB "
        "stay free: make room, then clear the failed tasks; what is done stays done."
    )


class DiskFullError(SpaceError, OSError):
    """A disk ran full during a write; also an :class:`OSError`, for code that expects the system's own error."""


@contextmanager
def told_when_full(where: str) -> Iterator[None]:
    """
    Name the disk that has run full since its free space was checked.

    :raises DiskFullError: when no space is left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"{where} has no room left ({error}): make room, then clear the failed tasks; what is done stays done."
        ) from error


class Folder:
    """
    A folder on a disk or an object store, reached through fsspec.

    Files become visible complete or not at all: on a disk they are written under a temporary name, synced and renamed;
    on an object store a put is atomic. On a disk they are accessible to their owner alone.

    :param root: the folder's path on the file system.
    :param scheme: what turns a path on an object store into a URL, such as ``s3://conn_id@``.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str, scheme: str = "") -> None:
        self._fs, self.root, self._scheme = filesystem, root.rstrip("/"), scheme
        self._local = _is_local(filesystem)
        if isinstance(listings := getattr(filesystem, "dircache", None), DirCache):
            # Other tasks write here, too: with a cached listing, files that came later would seem to be missing.
            listings.use_listings_cache = False
            listings.clear()

    @classmethod
    def at(cls, url: str) -> Folder:
        """Open a folder, which need not exist yet, by a URL such as ``file:///srv/staging`` or a plain path."""
        filesystem, root = url_to_fs(url)
        return cls(filesystem, root)

    @property
    def url(self) -> str:
        """The folder's URL, for reports and claims."""
        return self._scheme + self.root if self._scheme else str(self._fs.unstrip_protocol(self.root))

    def child(self, *names: str) -> Folder:
        """
        A folder below this one, which need not exist yet.

        :param names: one name per level; characters with a meaning in paths are escaped.
        """
        return self._at("/".join([self.root, *map(safe_name, names)]))

    def inside(self, url: str) -> Folder | None:
        """A folder below this one by its URL, as :attr:`url` gave it; ``None`` when the URL leads elsewhere."""
        path = url.removeprefix(self.url + "/")
        return None if path == url or {"", ".", ".."} & set(path.split("/")) else self._at(f"{self.root}/{path}")

    def _at(self, root: str) -> Folder:
        return Folder(self._fs, root, self._scheme)

    def path(self, name: str) -> str:
        """
        The full path of a file on the folder's file system.

        :param name: with ``/`` between levels; made by this package, never by a user.
        """
        return f"{self.root}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once."""
        with self.create(name) as stream:
            stream.write(data)

    def create(self, name: str) -> _Writer:
        """Write a file as a stream; it appears under its name when the ``with`` block ends without an error."""
        return _Writer(self._fs, self.path(name), self._local)

    def write_json(self, name: str, value: object) -> None:
        self.write(name, json.dumps(value, separators=(",", ":"), allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file; ``None`` when there is no such file."""
        try:
            return json.loads(self._fs.cat_file(self.path(name)))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, with seeks."""
        return cast("BinaryIO", self._fs.open(self.path(name), "rb", block_size=GET_BYTES))

    def names(self, under: str = "") -> list[str]:
        """The sorted names of the files and folders directly below; empty when the folder does not exist."""
        where = self.path(under) if under else self.root
        try:
            entries = self._fs.ls(where, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(entry).name for entry in entries)

    def stamps(self, under: str = "") -> dict[str, object]:
        """
        The files directly below, by name, each with a stamp that differs once the file has been written again.

        Empty when the folder does not exist.
        """
        try:
            entries = self._fs.ls(self.path(under) if under else self.root, detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        found = {
            PurePosixPath(entry["name"]).name: tuple(
                str(entry.get(part)) for part in ("size", "ino", "mtime", "LastModified", "ETag")
            )
            for entry in entries
            if entry["type"] == "file"
        }
        # A hidden file is still being written.
        return {name: stamp for name, stamp in found.items() if not name.startswith(".")}

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read small files, from an object store several at a time; files that do not exist are left out."""
        paths = {self.path(name): name for name in names}
        if not paths:
            return {}
        result = {}
        for path, content in self._fs.cat(list(paths), on_error="return").items():
            if isinstance(content, bytes):
                result[paths[path]] = content
            elif not isinstance(content, FileNotFoundError):
                raise content
        return result

    def folders(self) -> list[Folder]:
        """The folders directly below, sorted by name; empty when the folder does not exist."""
        return [self._at(self.path(name)) for name in self.names() if self._fs.isdir(self.path(name))]

    def remove(self, name: str = "") -> None:
        """Remove a file or a sub-folder with its content, or the folder itself; no error when it is missing."""
        try:
            self._fs.rm(self.path(name) if name else self.root, recursive=True)
        except FileNotFoundError:
            return

    def move_from(self, other: Folder, name: str) -> None:
        """Move a file here from another folder on the same file system, under the same name."""
        target = self.path(name)
        if self._local:
            make_private(target.rsplit("/", 1)[0])
        self._fs.mv(other.path(name), target)

    def free_bytes(self) -> int | None:
        """The free space where the folder lies, in bytes; ``None`` where the store has no limit."""
        if not self._local:
            return None
        make_private(self.root)
        return shutil.disk_usage(self.root).free

    def ensure_free_space(self, need: int) -> None:
        """
        Refuse to write what would fill the disk.

        :param need: bytes that are about to be written.
        :raises SpaceError: when less than that and :data:`RESERVE_BYTES` are free.
        """
        free = self.free_bytes()
        if free is not None and free < need + RESERVE_BYTES:
            raise SpaceError(full_message(self.url, free, need))

    def newest(self) -> float:
        """When anything in the folder was last written, in seconds since the epoch; 0 when it is empty or missing."""
        files = self._fs.find(self.root)
        return max((float(self._fs.modified(file).timestamp()) for file in files), default=0.0)


class _Writer:
    def __init__(self, filesystem: AbstractFileSystem, path: str, local: bool) -> None:
        self._fs, self._path, self._local = filesystem, path, local
        self._folder, name = path.rsplit("/", 1)
        self._written = f"{self._folder}/.{name}.{uuid4().hex}" if local else path

    def __enter__(self) -> BinaryIO:
        if self._local:
            with told_when_full(self._folder):
                make_private(self._folder)
                # A plain file on a disk: fsync needs its descriptor.
                self._stream: Any = open(self._written, "wb", opener=_private)
        else:
            self._stream = self._fs.open(self._path, "wb", block_size=PUT_BYTES)
        return cast("BinaryIO", self._stream)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._abandon()
            if self._local and isinstance(error, OSError):
                with told_when_full(self._folder):
                    raise error
            return
        if not self._local:
            self._stream.close()
            return
        try:
            with told_when_full(self._folder):
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                os.replace(self._written, self._path)  # noqa: PTH105
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self._local:
            # On a full disk closing fails, too: there is no space for the buffered rest.
            with suppress(OSError):
                self._stream.close()
            Path(self._written).unlink(missing_ok=True)
        else:
            self._stream.discard()
            # Otherwise it would still be stored when the garbage is collected.
            self._stream.closed = True


def make_private(folder: str) -> None:
    """Create a folder on a disk, and its missing parents, for their owner alone."""
    path = Path(folder)
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def safe_name(name: str) -> str:
    """
    Make one level of a path from a name that a user or Airflow made up (a DAG id, a run id).

    :returns: the name with everything escaped that could leave the folder; different names stay different.
    """
    # fsspec takes "::" for a chain of protocols, and "." and ".." lead elsewhere.
    escaped = quote(name, safe="+:@~ ").replace("::", ":%3A")
    if len(escaped) > _LONGEST_NAME:
        escaped = f"{escaped[: _LONGEST_NAME - 33]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return escaped.replace(".", "%2E") if set(escaped) == {"."} else escaped or "%"


def _is_local(filesystem: AbstractFileSystem) -> bool:
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
