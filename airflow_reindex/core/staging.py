"""A run's folder: everything that a run leaves behind until its index is published."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from airflow_reindex.core.failures import SpaceError

#: What is left free on a disk: its other users need room too.
RESERVE_BYTES = 256 << 20


def full_message(where: str, free: int, need: int) -> str:
    """
    What to say of a disk that is about to be full.

    :param where: the folder.
    :param free: bytes that are left.
    :param need: bytes that were about to be written.
    :returns: the message.
    """
    return (
        f"{where} has {free / 1e9:.2f} GB left, {need / 1e9:.2f} GB are needed now, and {RESERVE_BYTES / 1e9:.2f} GB "
        "stay free: make room, then clear the failed tasks; what is done stays done."
    )


class Folder:
    """
    A folder on a disk or an object store, reached through fsspec.

    Files become visible whole or not at all: on a disk they are written aside, synced and renamed; on an object store
    a put is atomic by itself.

    :param filesystem: the file system.
    :param root: the folder's path on it.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        self._fs, self.root = filesystem, root.rstrip("/")

    @classmethod
    def at(cls, url: str) -> Folder:
        """
        Open a folder by its URL.

        :param url: such as ``file:///srv/staging`` or a plain path.
        :returns: the folder; it need not exist yet.
        """
        filesystem, root = url_to_fs(url)
        return cls(filesystem, root)

    @property
    def url(self) -> str:
        """The folder's URL, for reports and claims."""
        return str(self._fs.unstrip_protocol(self.root))

    def child(self, *names: str) -> Folder:
        """
        A folder below this one.

        :param names: one name a level; characters that a path gives a meaning to are escaped.
        :returns: the folder; it need not exist yet.
        """
        return Folder(self._fs, "/".join([self.root, *map(safe_name, names)]))

    def path(self, name: str) -> str:
        """
        The full path of one of this folder's files.

        :param name: the file's name, with ``/`` between levels; made by this package, never by a user.
        :returns: the path on the folder's file system.
        """
        return f"{self.root}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """
        Write a file whole.

        :param name: the file's name.
        :param data: its content.
        """
        with self.create(name) as stream:
            stream.write(data)

    def create(self, name: str) -> _Writer:
        """
        Write a file as a stream; it appears under its name when the ``with`` block ends without an error.

        :param name: the file's name.
        :returns: a context manager that gives a binary stream.
        """
        return _Writer(self._fs, self.path(name))

    def write_json(self, name: str, value: object) -> None:
        """
        Write a JSON file whole.

        :param name: the file's name.
        :param value: what to write.
        """
        self.write(name, json.dumps(value, separators=(",", ":"), allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """
        Read a JSON file.

        :param name: the file's name.
        :returns: its value, or ``None`` when there is no such file.
        """
        try:
            return json.loads(self._fs.cat_file(self.path(name)))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """
        Open a file for reading, with seeks.

        :param name: the file's name.
        :returns: a binary stream.
        """
        return cast("BinaryIO", self._fs.open(self.path(name), "rb"))

    def names(self, under: str = "") -> list[str]:
        """
        The names of the files and folders directly below.

        :param under: a sub-folder's name; the folder itself when empty.
        :returns: sorted names without their path; empty when the folder does not exist.
        """
        where = self.path(under) if under else self.root
        try:
            entries = self._fs.ls(where, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(entry).name for entry in entries)

    def folders(self) -> list[Folder]:
        """
        The folders directly below.

        :returns: sorted by name; empty when the folder does not exist.
        """
        return [Folder(self._fs, self.path(name)) for name in self.names() if self._fs.isdir(self.path(name))]

    def remove(self, name: str = "") -> None:
        """
        Remove a file or a sub-folder with all that is in it; fine when it is not there.

        :param name: its name; the folder itself when empty.
        """
        try:
            self._fs.rm(self.path(name) if name else self.root, recursive=True)
        except FileNotFoundError:
            return

    def move_from(self, other: Folder, name: str) -> None:
        """
        Take over a file from another folder under the same name.

        :param other: the folder that holds it, on the same file system.
        :param name: the file's name.
        """
        target = self.path(name)
        self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self._fs.mv(other.path(name), target)

    def free_bytes(self) -> int | None:
        """
        The space that is left where the folder lies.

        :returns: bytes, or ``None`` where the store has no such limit.
        """
        if not _is_local(self._fs):
            return None
        self._fs.makedirs(self.root, exist_ok=True)
        return shutil.disk_usage(self.root).free

    def ensure_room(self, need: int) -> None:
        """
        Refuse to write what would fill the disk.

        :param need: bytes that are about to be written.
        :raises SpaceError: fewer than these and a reserve are left.
        """
        free = self.free_bytes()
        if free is not None and free < need + RESERVE_BYTES:
            raise SpaceError(full_message(self.url, free, need))

    def newest(self) -> float:
        """
        When anything in the folder was last written.

        :returns: seconds since the epoch; 0 for an empty or missing folder.
        """
        files = self._fs.find(self.root)
        return max((float(self._fs.modified(file).timestamp()) for file in files), default=0.0)


class _Writer:
    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self._fs, self._path = filesystem, path
        self._local = _is_local(filesystem)
        folder, name = path.rsplit("/", 1)
        self._written = f"{folder}/.{name}.{uuid4().hex}" if self._local else path
        self._folder = folder

    def __enter__(self) -> BinaryIO:
        self._fs.makedirs(self._folder, exist_ok=True)
        # A plain file on a disk: its descriptor is needed for fsync.
        self._stream: Any = open(self._written, "wb") if self._local else self._fs.open(self._path, "wb")  # noqa: PTH123
        return cast("BinaryIO", self._stream)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._abandon()
            return
        if self._local:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._stream.close()
        if self._local:
            os.replace(self._written, self._path)  # noqa: PTH105

    def _abandon(self) -> None:
        if self._local:
            self._stream.close()
            os.unlink(self._written)  # noqa: PTH108
        else:
            self._stream.discard()


def safe_name(name: str) -> str:
    """
    Make one level of a path from a name that a user or Airflow made up (a DAG id, a run id).

    :param name: the name.
    :returns: the name with everything escaped that could leave the folder; different names stay different.
    """
    # fsspec takes "::" for a chain of protocols, and "." and ".." lead elsewhere.
    escaped = quote(name, safe="+:@~ ").replace("::", ":%3A")
    return escaped.replace(".", "%2E") if set(escaped) == {"."} else escaped or "%"


def _is_local(filesystem: AbstractFileSystem) -> bool:
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
