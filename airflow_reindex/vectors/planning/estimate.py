"""Estimate of a reindex: counted, and extrapolated from a sample that is embedded for real."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.progress import duration
from airflow_reindex.vectors.embedding.pipeline import EmbeddingPipeline, embed_stream
from airflow_reindex.vectors.model.collection import Collection, Item, SyncState
from airflow_reindex.vectors.model.loader import Content
from airflow_reindex.vectors.sync.decide import decide
from airflow_reindex.vectors.sync.foreign import rules_of

if TYPE_CHECKING:
    from airflow_reindex.vectors.model.plan import ReindexPlan

#: Items per comparison, and items in the sample.
RANGE, SAMPLE = 20_000, 64
#: Rough average for English.
CHARACTERS_PER_TOKEN = 4


def estimate(
    pipeline: EmbeddingPipeline, source: Collection, dest: Collection | None, plan: ReindexPlan
) -> dict[str, Any]:
    """
    Count the work, and extrapolate its duration. Writes nothing.

    :param dest: ``None`` when it does not exist yet.
    :returns: ``items``, ``to_embed``, ``unchanged``, ``to_delete``, ``left_alone`` (if any), ``parts``, ``tokens``,
        ``cost`` (``None`` without a price), ``time``, ``seconds``, ``sample_failed``.
    """
    rules = rules_of(plan, preserve_newer=plan.preserve_newer)
    total, embed, unchanged, delete, others = 0, 0, 0, 0, 0
    sample: list[str] = []
    after = None
    for keys in [*source.keys(RANGE), []]:
        # The last range has no upper end: destination rows beyond the source's last key are to be removed.
        until = keys[-1] if keys else None
        states = dest.states(after, until) if dest else {}
        decision = decide(source.versions(after, until), states, rules)
        total += len(keys)
        embed, delete = embed + len(decision.embed), delete + len(decision.delete)
        unchanged, others = unchanged + len(decision.unchanged), others + len(decision.written) + len(decision.removed)
        sample = _thin([*sample, *_thin(decision.embed)])
        after = until
    figures = {"items": total, "to_embed": embed, "unchanged": unchanged, "to_delete": delete}
    return {**figures, **({"left_alone": others} if others else {}), **_extrapolate(pipeline, source, sample, embed)}


def _thin(keys: Sequence[str]) -> list[str]:
    """Return evenly spaced keys, at most as many as a sample has."""
    return list(keys[:: -(-len(keys) // SAMPLE)]) if keys else []


def _extrapolate(pipeline: EmbeddingPipeline, source: Collection, sample: Sequence[str], embed: int) -> dict[str, Any]:
    def sync_of(item: Item, content: str) -> SyncState:
        return SyncState(item.version, b"", content)

    contents = pipeline.loader.load(source.items(sample))
    characters = sum(len(content.text) for content in contents if isinstance(content, Content))
    began = time.monotonic()
    batches = list(embed_stream(source, sample, pipeline, sync_of))
    spent = time.monotonic() - began
    scale = embed / len(sample) if sample else 0.0
    tokens = round(characters / CHARACTERS_PER_TOKEN * scale)
    price = pipeline.model.spec.price
    return {
        "parts": round(sum(len(item.vectors) for batch in batches for item in batch.embedded) * scale),
        "tokens": tokens,
        "cost": None if price is None else round(tokens / 1e6 * price, 4),
        "seconds": round(spent * scale, 1),
        "time": f"about {duration(spent * scale)} for one sub-task at a time, without the ANN index",
        "sample_failed": sum(len(batch.failed) for batch in batches),
    }
