"""Interface of loaders, which fetch the contents of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Item


@dataclass(frozen=True, slots=True)
class Content:
    """
    The text of an item.

    :param version: of content outside of the collection (an ETag, a hash); empty for content from the row.
    """

    text: str
    version: str = ""


class Loader(Protocol):
    """Fetches contents. Methods may be called from several threads."""

    @property
    def config(self) -> str:
        """Settings that determine contents, as a text without secrets; part of the embedding config hash."""

    @property
    def outside(self) -> bool:
        """Whether contents are outside of the collection, so that they can change while the row does not."""

    def load(self, items: Sequence[Item]) -> list[Content | DataError]:
        """
        Fetch contents.

        :returns: for each item, in order, its content or the reason why it has none.
        :raises RequestError: the loader's settings or credentials are wrong.
        :raises TransientError: the server is away or busy, also after several attempts.
        """

    def versions(self, items: Sequence[Item]) -> list[str | DataError]:
        """
        Return current versions of contents, as cheaply as possible; called only when ``outside``.

        Raises like :meth:`load`.

        :returns: for each item, in order, its content's version or the reason why it has none.
        """
