"""Roll-back of a switch: readers follow the previous collection again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.vectors.cutover.pointers import note_hooked, refuse_busy
from airflow_reindex.vectors.model.store import Pointer, Store
from airflow_reindex.vectors.sync.session import RANGE_ITEMS

#: Most differing items that a roll-back names.
NAMED = 100


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """
    The result of a roll-back.

    :param collection_id: the collection that readers follow again.
    :param embedding_model_id: the model that queries must be embedded with again.
    :param was: the collection that they followed until now.
    :param missing: number of items of ``was`` that the old collection lacks or has in another version.
    :param resurrected: number of items of the old collection that had been removed since.
    :param named: the first of both.
    """

    alias: str
    collection_id: str
    embedding_model_id: str
    was: str
    missing: int
    resurrected: int
    named: list[str]


def roll_back(store: Store, alias: str, hook: Callable[[Pointer], None] | None, run_id: str) -> RolledBack:
    """
    Point an alias back to the collection before the last switch, and report the newer writes that it lacks.

    :param hook: informs a registry elsewhere.
    :raises RequestError: there is no such alias.
    :raises ConflictError: there is nothing to go back to, or a run uses the old collection.
    """
    pointer = store.pointer(alias)
    if pointer is None:
        raise RequestError(f"there is no alias '{alias}' in {store.label}.")
    old, new = pointer.previous_collection_id, pointer.collection_id
    if not old or store.find(old) is None:
        raise ConflictError(
            f"alias '{alias}' cannot be rolled back: "
            + (f"the collection '{old}' was removed." if old else "it has never been switched.")
        )
    if any(claim.dest == old for claim in store.claims()):
        refuse_busy(store, old)
    missing, resurrected = _newer(store, old, new)
    back = Pointer(
        alias=alias,
        collection_id=old,
        embedding_model_id=pointer.previous_model_id,
        previous_collection_id=new,
        previous_model_id=pointer.embedding_model_id,
        run_id=run_id,
    )
    store.repoint(back, None)
    if hook is not None:
        hook(back)
    note_hooked(store, back, None)
    return RolledBack(
        alias=alias,
        collection_id=old,
        embedding_model_id=back.embedding_model_id,
        was=new,
        missing=len(missing),
        resurrected=len(resurrected),
        named=[*missing[:NAMED], *resurrected[:NAMED]],
    )


def _newer(store: Store, old: str, new: str) -> tuple[list[str], list[str]]:
    one, other = store.open(old), store.open(new)
    missing: list[str] = []
    resurrected: list[str] = []
    after = None
    for keys in chain(one.keys(RANGE_ITEMS), [[]]):
        until = keys[-1] if keys else None
        then, now = one.versions(after, until), other.versions(after, until)
        missing += [key for key, version in now.items() if then.get(key) != version]
        resurrected += [key for key in then if key not in now]
        after = until
    return missing, resurrected
