"""Reconciliation of one key range: embed what is missing or has changed, remove what is gone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Keys
from dataclasses import dataclass, field

from airflow_reindex.core.failures import DataError
from airflow_reindex.core.progress import Progress
from airflow_reindex.vectors.embedding.pipeline import READ_ITEMS, EmbeddingPipeline, embed_stream
from airflow_reindex.vectors.model.collection import Collection, Embedded, Item, Stage, SyncState
from airflow_reindex.vectors.model.embedding_model import ModelSpec
from airflow_reindex.vectors.model.failed_item import FailedItem
from airflow_reindex.vectors.sync.bisect_writes import write_items
from airflow_reindex.vectors.sync.decide import Decision, Rules, decide

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """
    The result of reconciling a key range, in items.

    :param seen: originals of the source in the range.
    :param parts: vectors written, averages not counted.
    :param unchanged: items that were up to date.
    :param left_alone: objects that another writer has written, changed or removed in the destination.
    :param removed: those of them that are in the source and not in the destination.
    :param surplus: objects of the destination that neither the source's items nor failures account for.
    :param failed: items that failed in this run, in this pass or earlier.
    """

    seen: int = 0
    embedded: int = 0
    parts: int = 0
    unchanged: int = 0
    deleted: int = 0
    left_alone: int = 0
    removed: int = 0
    surplus: int = 0
    failed: list[FailedItem] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """Number of items embedded or removed."""
        return self.embedded + self.deleted

    def add(self, other: Tally) -> None:
        """Add another range's figures."""
        for name in ("seen", "embedded", "parts", "unchanged", "deleted", "left_alone", "removed", "surplus"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed += other.failed


def embedding_config_hash(pipeline: EmbeddingPipeline) -> bytes:
    """Return the embedding config hash (16 bytes) of model, loader and splitter; a new one re-embeds all items."""
    spec: ModelSpec = pipeline.model.spec
    parts = [spec.backend, spec.name, spec.dimensions, spec.document_prefix, pipeline.loader.config]
    text = json.dumps([*parts, pipeline.splitter.config])
    return hashlib.sha256(text.encode()).digest()[:16]


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """
    Makes key ranges of the destination equal to the source's.

    :param token: of the claim.
    :param check: raises when the claim is lost.
    """

    source: Collection
    dest: Collection
    pipeline: EmbeddingPipeline
    token: str
    check: Callable[[], None]

    def run(
        self,
        after: str | None,
        until: str | None,
        rules: Rules,
        *,
        only: Keys[str] | None = None,
        force: bool = False,
        since: str | None = None,
        contents: bool = False,
        what: str = "",
    ) -> Tally:
        """
        Reconcile one key range. Repeated, it does only what is left.

        :param only: restrict to these items, and remove nothing.
        :param force: embed all of them, also those that are up to date.
        :param since: a watermark: consider only rows of the source that may have changed since, and remove nothing.
        :param contents: ask the loader whether contents outside of the row have changed.
        :param what: the range's name in the log; empty: log no progress.
        """
        versions = self.source.versions(after, until, since)
        if only is not None:
            versions = {key: version for key, version in versions.items() if key in only}
        part = only is not None or since is not None
        states = self.dest.states(after, until, list(versions) if part else None)
        decision = Decision(embed=list(versions)) if force else decide(versions, states, rules)
        tally = Tally(
            seen=len(versions),
            unchanged=len(decision.unchanged),
            left_alone=len(decision.written) + len(decision.removed),
            removed=len(decision.removed),
            surplus=decision.surplus,
        )
        tally.failed += [
            FailedItem(object_id=key, version=m.version, failure_stage=m.stage, detail=m.detail)
            for key, m in decision.failed.items()
        ]
        embed = list(decision.embed)
        if contents and self.pipeline.loader.outside:
            sync_states = {key: s.sync for key, s in states.items() if s.sync and s.row == s.sync.version}
            embed += self._changed_contents(decision, sync_states, rules, tally)
        self._embed(embed, rules, tally, what)
        if not part:
            self._delete(decision.delete, tally, only_unchanged=rules.preserve_newer)
        return tally

    def _embed(self, keys: Sequence[str], rules: Rules, tally: Tally, what: str) -> None:
        if not keys:
            return

        def sync_of(item: Item, content: str) -> SyncState:
            return SyncState(item.version, rules.embedding_config_hash, content, plan_token=rules.plan_token)

        left = set[str]()

        def put(batch: Sequence[Embedded]) -> None:
            # What other writers wrote since the comparison.
            left.update(self.dest.put(self.token, batch, only_unchanged=rules.preserve_newer))

        progress = Progress(log.info, what, len(keys), unit="items") if what else None
        for batch in embed_stream(self.source, keys, self.pipeline, sync_of):
            self.check()
            landed, refused = write_items(put, batch.embedded)
            self._fail(batch.failed + refused, rules, tally)
            done = [item for item in landed if item.item.object_id not in left]
            tally.left_alone += len(landed) - len(done)
            tally.embedded += len(done)
            tally.parts += sum(len(item.vectors) for item in done)
            tally.seen -= batch.gone
            if progress:
                failed = f"{len(tally.failed)} failed" if tally.failed else ""
                progress.add(len(batch.embedded) + len(batch.failed) + batch.gone, failed)
        if progress:
            progress.finish(f"{len(tally.failed)} failed" if tally.failed else "")

    def _fail(self, failed: Sequence[FailedItem], rules: Rules, tally: Tally) -> None:
        if not failed:
            return
        for item in failed:
            log.warning("item %s: %s", item.object_id, item.message)
        sync_states = {
            item.object_id: SyncState(
                item.version,
                rules.embedding_config_hash,
                stage=item.failure_stage,
                detail=item.detail,
                plan_token=rules.plan_token,
            )
            for item in failed
        }
        keep = rules.preserve_newer and not rules.drop_failed
        left = set(self.dest.fail(self.token, sync_states, keep_rows=keep, only_unchanged=rules.preserve_newer))
        tally.left_alone += len(left)
        tally.failed += [item for item in failed if item.object_id not in left]

    def _changed_contents(
        self, decision: Decision, sync_states: Mapping[str, SyncState], rules: Rules, tally: Tally
    ) -> list[str]:
        """Return items whose content has changed although their row has not."""
        changed: list[str] = []
        keys = [key for key in decision.unchanged if key in sync_states]
        for start in range(0, len(keys), READ_ITEMS):
            items = self.source.items(keys[start : start + READ_ITEMS])
            failed = []
            for item, version in zip(items, self.pipeline.loader.versions(items), strict=True):
                if isinstance(version, DataError):
                    failed.append(FailedItem.of(item, Stage.DOWNLOADING, version))
                elif sync_states[item.object_id].content != version:
                    changed.append(item.object_id)
            self._fail(failed, rules, tally)
            tally.unchanged -= len(failed)
        tally.unchanged -= len(changed)
        return changed

    def _delete(self, keys: Sequence[str], tally: Tally, *, only_unchanged: bool) -> None:
        for start in range(0, len(keys), READ_ITEMS):
            asked = keys[start : start + READ_ITEMS]
            # Asked again, as an item may have been inserted since.
            gone = self.source.missing_keys(asked)
            self.check()
            left = self.dest.delete(self.token, gone, only_unchanged=only_unchanged)
            tally.left_alone += len(left)
            tally.deleted += len(gone) - len(left)
