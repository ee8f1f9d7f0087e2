"""Small JSON files of a folder, read again only when they have changed: for pages that show a run again and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from airflow_reindex.core.staging import Folder

T = TypeVar("T")


class JsonFiles(Generic[T]):
    """
    The JSON files directly below a sub-folder, each parsed once per version.

    :param parse: takes a file's name and its value.
    """

    def __init__(self, folder: Folder, under: str, parse: Callable[[str, Any], T]) -> None:
        self._folder, self._under, self._parse = folder, under, parse
        self._known: dict[str, tuple[object, T]] = {}

    def read(self) -> dict[str, T]:
        """What ``parse`` made of each present file, by file name, in the order of the names."""
        stamps = {n: s for n, s in self._folder.stamps(self._under).items() if n.endswith(".json")}
        changed = [n for n, stamp in stamps.items() if n not in self._known or self._known[n][0] != stamp]
        texts = self._folder.read_many([f"{self._under}/{name}" for name in changed])
        self._known = {name: known for name, known in self._known.items() if name in stamps}
        for name in changed:
            text = texts.get(f"{self._under}/{name}")
            if text is None:
                # Removed since the listing.
                self._known.pop(name, None)
            else:
                self._known[name] = (stamps[name], self._parse(name, json.loads(text)))
        return {name: self._known[name][1] for name in sorted(self._known)}
