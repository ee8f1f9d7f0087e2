"""Where an item's content comes from: what a loader must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.collection import Item


@dataclass(frozen=True, slots=True)
class Content:
    """
    What an item's vectors are made from.

    :param text: the text.
    :param version: of content that lies outside of the collection (an ETag, a hash); empty for what is in the row.
    """

    text: str
    version: str = ""


class Loader(Protocol):
    """Fetches contents. Methods may be called from several threads."""

    @property
    def recipe(self) -> str:
        """Its settings as a text: with other settings the same item may give another content. No secrets."""

    @property
    def outside(self) -> bool:
        """Whether contents lie outside of the collection, so that they can change while the row does not."""

    def load(self, items: Sequence[Item]) -> list[Content | DataError]:
        """
        Fetch contents.

        :param items: the items.
        :returns: for each item, in their order, its content, or why it has none.
        :raises RequestError: the loader's settings or credentials are wrong.
        :raises TransientError: the place is away or busy, also after several tries.
        """

    def versions(self, items: Sequence[Item]) -> list[str | DataError]:
        """
        Ask for the versions that contents have now, as cheaply as the place allows; only for one that is ``outside``.

        :param items: the items.
        :returns: for each item, in their order, its content's version, or why it has none.
        :raises RequestError: as for :meth:`load`.
        :raises TransientError: as for :meth:`load`.
        """
