"""Which items of a key range are embedded, and which are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_reindex.vectors.model.collection import DestState, SyncState


@dataclass(frozen=True, kw_only=True)
class Rules:
    """
    What may be done to the destination.

    :param plan_token: the plan's token and not the run's id: failures of an earlier plan of the run do not count.
    :param preserve_newer: rows that differ from their sync state are neither overwritten nor removed, and rows that
        another writer removed do not come back.
    :param drop_gone: with ``preserve_newer``: still remove what is gone from the source, if no other writer has changed
        it; otherwise nothing is removed, as the destination may be newer than the source.
    :param drop_failed: with ``preserve_newer``: still remove the older row of a failed item, if no other writer has
        changed it.
    :param skip_failed: skip items that have failed in this run already, unless they have changed since.
    """

    embedding_config_hash: bytes
    plan_token: str
    preserve_newer: bool = False
    drop_gone: bool = False
    drop_failed: bool = False
    skip_failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    The work in a key range.

    :param embed: items that are missing or have changed.
    :param delete: items that are gone from the source.
    :param unchanged: items that are up to date.
    :param written: objects that another writer has written or changed, also those that the source does not have;
        skipped.
    :param removed: items of the source whose rows another writer has removed; they do not come back.
    :param surplus: number of others' objects that are not in the source, plus those that this run counts as failed.
    :param failed: items that have failed in this run; skipped.
    """

    embed: Sequence[str] = field(default_factory=tuple)
    delete: Sequence[str] = field(default_factory=tuple)
    unchanged: Sequence[str] = field(default_factory=tuple)
    written: Sequence[str] = field(default_factory=tuple)
    removed: Sequence[str] = field(default_factory=tuple)
    surplus: int = 0
    failed: Mapping[str, SyncState] = field(default_factory=dict)


def decide(source: Mapping[str, bytes], dest: Mapping[str, DestState], rules: Rules) -> Decision:
    """
    Compare a key range of source and destination.

    :param source: versions of the source's originals, by id.
    :param dest: states of the destination's objects, by id.
    :returns: each of the source's items is embedded, unchanged, failed, written or removed.
    """
    embed, unchanged, written, removed = list[str](), list[str](), list[str](), list[str]()
    failed: dict[str, SyncState] = {}
    surplus = 0
    for key, version in source.items():
        state = dest.get(key)
        sync = state.sync if state else None
        if rules.preserve_newer and state is not None and state.is_foreign:
            (removed if state.row is None else written).append(key)
            surplus += _counts_as_failed(state, rules)
        elif rules.skip_failed and sync is not None and _failed_here(sync, version, rules):
            failed[key] = sync
        elif _stays(version, state, rules):
            unchanged.append(key)
        else:
            embed.append(key)
    if rules.preserve_newer:
        others = [key for key, state in dest.items() if key not in source and state.row and state.is_foreign]
        surplus += len(others) + sum(_counts_as_failed(dest[key], rules) for key in others)
        written += others
    return Decision(
        embed=embed,
        delete=_gone(source, dest, rules),
        unchanged=unchanged,
        written=written,
        removed=removed,
        surplus=surplus,
        failed=failed,
    )


def _counts_as_failed(state: DestState, rules: Rules) -> bool:
    """Whether this run counts an item as failed although another writer has changed its row since."""
    return state.sync is not None and bool(state.sync.stage) and state.sync.plan_token == rules.plan_token


def _failed_here(sync: SyncState, version: bytes, rules: Rules) -> bool:
    return bool(sync.stage) and sync.plan_token == rules.plan_token and _is_current(sync, version, rules)


def _stays(version: bytes, state: DestState | None, rules: Rules) -> bool:
    if state is None or state.sync is None or state.sync.stage:
        return False
    return state.row == version and _is_current(state.sync, version, rules)


def _is_current(sync: SyncState, version: bytes, rules: Rules) -> bool:
    return sync.version == version and sync.embedding_config_hash == rules.embedding_config_hash


def _gone(source: Mapping[str, bytes], dest: Mapping[str, DestState], rules: Rules) -> list[str]:
    if rules.preserve_newer and not rules.drop_gone:
        return []
    # An object without a row only loses its sync state.
    return [
        key
        for key, state in dest.items()
        if key not in source and not (rules.preserve_newer and state.row is not None and state.is_foreign)
    ]
