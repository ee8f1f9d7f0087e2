"""An item that failed: from where it fails to the run's list of failed items."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.failures import truncate_detail

if TYPE_CHECKING:
    # Code that only reads lists of failed items does not need the embedding packages.
    from airflow_reindex.vectors.model.collection import Item, Stage


@dataclass(frozen=True, kw_only=True)
class FailedItem:
    """
    A source item that is not in the destination.

    :param failure_stage: ``on_downloading``, ``on_splitting``, ``on_inference``, ``on_upsert`` or ``other``.
    :param detail: at most 1500 characters.
    :param collection: the collection with the payload; it uses the same object id.
    :param item_info: the storage metadata: where the content is; as text when that is not JSON.
    :param window: its window, as ``offset`` and ``limit``.
    :param version: its row's version; not in lists.
    """

    object_id: str
    failure_stage: str
    detail: str
    collection: str = ""
    item_info: Any = None
    window: str = ""
    version: bytes = b""

    @classmethod
    def of(cls, item: Item, stage: Stage, error: BaseException | str) -> FailedItem:
        """Create the failure of an item, not yet placed in a collection and window."""
        info: Any = item.storage_meta_json
        # Sources that have them as plain text may hold anything: that must not hide why the item has failed.
        with suppress(ValueError, RecursionError):
            info = item.storage_meta
        return cls(
            object_id=item.object_id,
            failure_stage=stage.value,
            detail=truncate_detail(error),
            item_info=info,
            version=item.version,
        )

    def as_dict(self) -> dict[str, Any]:
        """The item as lists have it."""
        value = asdict(self)
        del value["version"]
        return value

    @property
    def place(self) -> tuple[str, str, str]:
        """Sort key in the error map: collection, window, item."""
        return self.collection, self.window, self.object_id

    @property
    def message(self) -> str:
        """The stage and the reason."""
        return f"{self.failure_stage}: {self.detail}"
