"""A running task of a claimed reindex: source, destination and plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from airflow_reindex.core.claims import BEAT_SECONDS, Claim, Keeper, Owner
from airflow_reindex.core.failures import ClaimLostError, RequestError
from airflow_reindex.vectors.model.collection import Collection
from airflow_reindex.vectors.model.plan import ReindexPlan, coarse_ranges
from airflow_reindex.vectors.model.store import Store
from airflow_reindex.vectors.sync.context import ReindexContext
from airflow_reindex.vectors.sync.decide import Rules
from airflow_reindex.vectors.sync.foreign import rules_of
from airflow_reindex.vectors.sync.reconcile import Reconciler, Tally, embedding_config_hash

#: Items compared at a time in a pass over the whole collection.
RANGE_ITEMS = 20_000


@dataclass(frozen=True, kw_only=True)
class Session:
    """
    A running task: its plan, the opened collections, and a claim kept alive by heartbeats.

    :param check: raises when the claim is lost.
    :param preserve_newer: the destination may be newer than the source: the plan says so, or readers follow it by now.
    """

    plan: ReindexPlan
    context: ReindexContext
    source: Collection
    dest: Collection
    reconciler: Reconciler
    check: Callable[[], None]
    preserve_newer: bool

    @property
    def preserves_foreign(self) -> bool:
        """Whether rows written or removed by others in the destination are preserved."""
        return self.rules().preserve_newer

    def rules(self, *, skip_failed: bool = False) -> Rules:
        """
        Return what may be done to the destination.

        :param skip_failed: skip what has failed in this run already.
        """
        return rules_of(self.plan, preserve_newer=self.preserve_newer, skip_failed=skip_failed)

    def reconcile_all(self, rules: Rules | None = None) -> Tally:
        """
        Reconcile the whole collection, range by range.

        :param rules: ``None``: the session's; failures of this run are counted and not retried.
        """
        tally = Tally()
        for after, until in coarse_ranges(self.plan.windows, RANGE_ITEMS):
            self.check()
            tally.add(self.reconciler.run(after, until, rules or self.rules(skip_failed=True), what="catch up"))
        return tally


@contextmanager
def session(context: ReindexContext, plan: ReindexPlan, owner: Owner) -> Iterator[Session]:
    """
    Open the collections of a plan, and keep its claim alive.

    :raises ClaimLostError: another run has taken over.
    :raises RequestError: the embedding config hash differs from the plan's.
    """
    if embedding_config_hash(context.pipeline).hex() != plan.embedding_config_hash:
        raise RequestError(
            f"the model '{context.dest_spec.model_id}', the loader or the splitter is set otherwise than when this run "
            "was planned, and the collection would hold vectors of both: set it back, or clear this run from its task "
            "'plan' on, which embeds everything anew."
        )
    store = context.store
    claim = claim_of(plan, owner)

    def lost() -> ClaimLostError:
        return ClaimLostError(_why_lost(store, plan))

    with Keeper(lambda: store.touch(claim), lost, every=BEAT_SECONDS) as keeper:
        source, dest = store.open(plan.source.collection_id), store.open(plan.dest.collection_id)
        reconciler = Reconciler(
            source=source, dest=dest, pipeline=context.pipeline, token=plan.token, check=keeper.check
        )
        yield Session(
            plan=plan,
            context=context,
            source=source,
            dest=dest,
            reconciler=reconciler,
            check=keeper.check,
            preserve_newer=plan.preserve_newer or bool(store.followers(plan.dest.collection_id)),
        )


def _why_lost(store: Store, plan: ReindexPlan) -> str:
    dest = plan.dest.collection_id
    holder = next((claim.owner for claim in store.claims() if claim.dest == dest), None)
    if holder is not None:
        what = f"another run took over, {holder}"
    else:
        what = "it was given back when this run had ended, or was given up, or another run had it meanwhile"
    return (
        f"this run no longer holds the claim on collection '{dest}': {what}. It changed nothing since; to go on, "
        "trigger a new run or clear this one from its task 'plan' on."
    )


def claim_of(plan: ReindexPlan, owner: Owner) -> Claim:
    """Return a plan's claim."""
    return Claim(dest=plan.dest.collection_id, source=plan.source.collection_id, token=plan.token, owner=owner)
