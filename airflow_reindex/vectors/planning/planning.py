"""The first step of a reindex: check everything, claim the destination, cut the source into windows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from airflow_reindex.core.claims import Claim, Contender
from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import PLAN, REPORT, TASKS, now
from airflow_reindex.vectors.account import OUTCOMES
from airflow_reindex.vectors.embedding.probing import check_model
from airflow_reindex.vectors.model.collection import Collection, CollectionInfo
from airflow_reindex.vectors.model.embedding_model import ModelSpec
from airflow_reindex.vectors.model.plan import ReindexPlan, Window, window_size, write_windows
from airflow_reindex.vectors.model.request import ReindexRequest
from airflow_reindex.vectors.model.store import Pointer, Store
from airflow_reindex.vectors.planning.estimate import estimate
from airflow_reindex.vectors.sync.context import ReindexContext
from airflow_reindex.vectors.sync.reconcile import embedding_config_hash

log = logging.getLogger(__name__)

#: Keys per read while windows are cut.
KEYS_AT_A_TIME = 10_000
#: Seconds between two checks of another run's claim.
WAIT_SECONDS = 10.0


def make_plan(
    context: ReindexContext,
    request: ReindexRequest,
    folder: Folder,
    contender: Contender,
    *,
    conn_id: str,
    listed: Sequence[str] | None = None,
) -> tuple[ReindexPlan, dict[str, Any]]:
    """
    Plan a reindex. Nothing changes before all checks have passed; a dry run changes nothing at all.

    :param contender: the run that claims the destination.
    :param listed: ids of the items to process; ``None``: all.
    :returns: the plan (without a token for a dry run), and figures for the log and the report.
    :raises RequestError: the request or the deployment is wrong.
    :raises ConflictError: another run builds the destination, or readers follow what must not be changed.
    """
    store = context.store
    store.check()
    source, dest, exists = _collections(context, request)
    check_model(context.pipeline.model, context.pipeline.splitter, allow_cut=request.max_same_vectors >= 1)
    protection = _check_switch(store, request, source, dest)
    judge = _judge(source, dest, contender)
    if not request.wait_on_conflict:
        judge(store.claims())
    plan = ReindexPlan(
        token="",
        request=request,
        run_id=contender.owner.run_id,
        conn_id=conn_id,
        source=source,
        dest=dest,
        embedding_config_hash=embedding_config_hash(context.pipeline).hex(),
        total=0,
        windows=(),
        listed_only=listed is not None,
        started_at=now(),
        **protection,
    )
    opened = store.open(source.collection_id)
    if request.dry_run:
        there = store.open(dest.collection_id) if exists else None
        return plan, estimate(context.pipeline, opened, there, plan)
    plan = _claimed(context, plan, contender, judge)
    store.create(plan.token, plan.dest)
    plan = _with_windows(plan, folder, opened, listed)
    return plan, {"items": plan.total, "windows": len(plan.windows)}


def _claimed(
    context: ReindexContext, plan: ReindexPlan, contender: Contender, judge: Callable[[Sequence[Claim]], Claim | None]
) -> ReindexPlan:
    token = _take(context.store, plan, contender, judge)
    # Until the claim was taken, another run may have switched readers over, or removed the source.
    source, dest, _ = _collections(context, plan.request)
    protection = _check_switch(context.store, plan.request, source, dest)
    return replace(plan, token=token, source=source, dest=dest, **protection)


def _collections(context: ReindexContext, request: ReindexRequest) -> tuple[CollectionInfo, CollectionInfo, bool]:
    """Return source, wanted destination, and whether this package has created the destination already."""
    store, wanted = context.store, context.dest_spec
    source_id, dest_id = collection_of(context.source_spec), collection_of(wanted)
    if source_id == dest_id:
        raise RequestError(
            f"source and destination are the same collection, '{source_id}': give one of the models "
            f"'{request.source_embedding_model_id}' and '{request.dest_embedding_model_id}' another collection_id."
        )
    source = store.find(source_id)
    if source is None:
        raise RequestError(
            f"there is no collection '{source_id}' of model '{request.source_embedding_model_id}' in {store.label}."
        )
    _check_kind(source, context.source_spec, "source")
    dest = CollectionInfo(
        collection_id=dest_id,
        embedding_model_id=request.dest_embedding_model_id,
        dimensions=wanted.dimensions,
        metric=wanted.metric,
        m=source.m,
        ef_construction=source.ef_construction,
    )
    found = store.find(dest_id)
    if found is not None:
        _check_kind(found, wanted, "destination")
        if not found.embedding_model_id and request.writes_go_to == "source" and store.open(dest_id).count():
            raise ConflictError(
                f"the destination '{dest_id}' has rows that no run of this package wrote: drop it, or set "
                "writes_go_to=dest when the deployment writes there already."
            )
        dest = replace(dest, m=found.m, ef_construction=found.ef_construction)
    store.check_info(dest)
    return source, dest, found is not None and bool(found.embedding_model_id)


def collection_of(spec: ModelSpec) -> str:
    """Return a model's collection id: the model's own (as in EmbeddingStudio), unless its connection names another."""
    return spec.collection_id or spec.model_id


def _check_kind(found: CollectionInfo, spec: ModelSpec, role: str) -> None:
    name = f"the {role} '{found.collection_id}'"
    if found.embedding_model_id and found.embedding_model_id != spec.model_id:
        raise RequestError(
            f"{name} holds vectors of model '{found.embedding_model_id}', not of '{spec.model_id}': name that model, "
            f"or give '{spec.model_id}' another collection_id."
        )
    if found.dimensions and found.dimensions != spec.dimensions:
        raise RequestError(
            f"{name} has vectors of {found.dimensions} dimensions, but the connection of model '{spec.model_id}' says "
            f"{spec.dimensions}."
        )
    if role == "destination" and found.metric != spec.metric:
        raise RequestError(
            f"{name} is indexed for the metric '{found.metric}', but the connection of model '{spec.model_id}' says "
            f"'{spec.metric}'."
        )


def _check_switch(
    store: Store, request: ReindexRequest, source: CollectionInfo, dest: CollectionInfo
) -> dict[str, Any]:
    """Check that readers may be switched; return the plan's fields that protect a destination newer than its source."""
    live = bool(store.followers(dest.collection_id))
    if request.deploy_as_blue:
        store.check_alias(request.alias)
        check_pointer(store.pointer(request.alias), source, dest)
        check_user_objects(store.open(source.collection_id), request)
    return {"preserve_newer": request.writes_go_to == "dest" or live, "notes": {"dest_is_live": live} if live else {}}


def check_pointer(pointer: Pointer | None, source: CollectionInfo, dest: CollectionInfo) -> None:
    """
    Refuse a switch of readers who follow neither source nor destination.

    :raises ConflictError: they follow another collection.
    """
    if pointer and pointer.collection_id not in (source.collection_id, dest.collection_id):
        raise ConflictError(
            f"alias '{pointer.alias}' follows the collection '{pointer.collection_id}', which is neither the source "
            "nor the destination: readers would lose what they see."
        )


def check_user_objects(source: Collection, request: ReindexRequest) -> None:
    """
    Refuse a switch that would leave users' personalised copies behind.

    Their vectors were learned for one user in the old model's space; they cannot be embedded from content.

    :raises ConflictError: there are some, and the request does not drop them.
    """
    count = 0 if request.drop_user_objects else source.count_user_objects()
    if count:
        raise ConflictError(
            f"the source has {count:,} personalised objects of users (original_id is set), which belong to the old "
            "model and are not carried over: a switch would drop them. Set drop_user_objects=true to give them up; "
            "they stay in the source until it is deleted."
        )


def _judge(
    source: CollectionInfo, dest: CollectionInfo, contender: Contender
) -> Callable[[Sequence[Claim]], Claim | None]:
    def judge(claims: Sequence[Claim]) -> Claim | None:
        former = None
        for claim in claims:
            if claim.dest == dest.collection_id:
                what, former = f"collection '{claim.dest}' is being built by", claim
            elif claim.dest == source.collection_id:
                what = f"the source '{claim.dest}' is itself being built by"
            elif claim.source == dest.collection_id:
                what = f"the destination '{claim.source}' is being read by"
            else:
                continue
            if contender.must_respect(claim.owner, claim.silent):
                raise ConflictError(f"{what} {claim.owner}. {contender.advice(claim.silent)}", holder=str(claim.owner))
        return former

    return judge


def _take(
    store: Store,
    plan: ReindexPlan,
    contender: Contender,
    judge: Callable[[Sequence[Claim]], Claim | None],
) -> str:
    claim = Claim(
        dest=plan.dest.collection_id, source=plan.source.collection_id, token=uuid4().hex[:16], owner=contender.owner
    )
    store.prepare()
    said: str | None = None
    while True:
        try:
            former = store.take(claim, judge)
        except ConflictError as error:
            if not plan.request.wait_on_conflict:
                raise
            if error.holder != said:
                said = error.holder
                log.info("waiting: %s", error)
            time.sleep(WAIT_SECONDS)
            continue
        if former:
            log.info("took over the claim of %s", former.owner)
        return claim.token


def _with_windows(plan: ReindexPlan, folder: Folder, source: Collection, listed: Sequence[str] | None) -> ReindexPlan:
    for name in (
        REPORT,
        *(f"{TASKS}/{name}" for name in folder.names(TASKS) if not name.lstrip(".").startswith("plan-")),
    ):
        folder.remove(name)
    folder.remove(OUTCOMES)
    wanted = None if listed is None else frozenset(listed)
    size = window_size(source.count() if wanted is None else len(wanted), plan.request.batch_size)
    windows: Sequence[Window] = write_windows(folder, _keys(source, wanted), size)
    total = sum(window.limit for window in windows)
    plan = replace(plan, windows=tuple(windows), total=total)
    folder.write_json(PLAN, plan.as_dict())
    if size != plan.request.batch_size and len(windows) > 1:
        log.info("%s items a window instead of %s: Airflow maps at most 1024 tasks", size, plan.request.batch_size)
    log.info("%s items of '%s' in %s windows", f"{total:,}", plan.source.collection_id, len(windows))
    return plan


def _keys(source: Collection, wanted: frozenset[str] | None) -> Iterator[list[str]]:
    for keys in source.keys(KEYS_AT_A_TIME):
        yield keys if wanted is None else [key for key in keys if key in wanted]
