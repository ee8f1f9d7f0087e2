"""
Runs in Airflow's metadata database: lookup, trigger, cancel and resume.

For the API server and the command line; tasks have no access to that database.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
from airflow.models.dag import DagModel, DagTag
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import ColumnElement, and_, exists, func, select
from sqlalchemy.exc import IntegrityError

from airflow_reindex.core.failures import ConflictError, RequestError
from airflow_reindex.core.staging import Folder
from airflow_reindex.core.task_records import CANCELED, PLAN, now, task_records
from airflow_reindex.hooks.staging import run_folder
from airflow_reindex.monitoring.run_info import COLLECTION, RunInfo
from airflow_reindex.vectors.model.plan import ITEMS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: The tag of both jobs' DAGs, and tasks that only these have.
TAG, OWN_TASKS = "reindex", ("load", "verify")
#: States of a run that has not ended.
LIVE = ("queued", "running")
#: Most times that a canceled run is marked as failed: tasks may have started meanwhile.
_CANCELS = 10
#: Consecutive looks without a running task, after which a run counts as canceled.
_QUIET_LOOKS = 2
#: Task states that a resumed run repeats; skipped tasks were kept from running by a cancel.
_AGAIN = ("failed", "upstream_failed", "skipped", "removed", "none")


def find_run(dag_id: str, run_id: str) -> RunInfo | None:
    """Look a run up; ``None`` when it does not exist."""
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        return _run_infos(session, [run])[0] if run is not None else None


def list_runs(
    dag_ids: Collection[str] | None = None, states: Sequence[str] = (), *, offset: int = 0, limit: int = 50
) -> tuple[list[RunInfo], int]:
    """
    Return the runs of both jobs, newest first, and their number.

    :param dag_ids: ``None``: all DAGs.
    :param states: Airflow's states; empty: all.
    """
    tagged = select(DagTag.dag_id).where(DagTag.name == TAG)
    own = exists().where(
        TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id, TaskInstance.task_id.in_(OWN_TASKS)
    )
    wanted = and_(
        DagRun.dag_id.in_(tagged),
        own,
        *([DagRun.dag_id.in_(dag_ids)] if dag_ids is not None else []),
        *([DagRun.state.in_(states)] if states else []),
    )
    with create_session() as session:
        total = session.scalar(select(func.count()).select_from(DagRun).where(wanted)) or 0
        query = select(DagRun).where(wanted).order_by(DagRun.run_after.desc(), DagRun.id.desc())
        return _run_infos(session, list(session.scalars(query.offset(offset).limit(limit)))), total


def reindex_dags() -> set[str]:
    """The DAGs of this package, by their tag."""
    with create_session() as session:
        return set(session.scalars(select(DagTag.dag_id).where(DagTag.name == TAG)))


def params_of(dag_id: str) -> Mapping[str, Any]:
    """The defaults of a DAG's params, including bound ones; empty when the DAG does not exist."""
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
        return dict(dag.params.dump()) if dag is not None else {}


def state_of(dag_id: str, run_id: str) -> str | None:
    """Airflow's state of a run, as a cheap query for frequent polls; ``None`` when it does not exist."""
    with create_session() as session:
        state = session.scalar(select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        return str(state) if state is not None else None


def runs_like(dag_id: str, prefix: str) -> tuple[str | None, str | None]:
    """
    Find runs whose ids have a common prefix.

    :returns: the one that has not ended, if any, and the newest of all.
    """
    alike = and_(DagRun.dag_id == dag_id, DagRun.run_id.startswith(prefix, autoescape=True))
    newest = select(DagRun.run_id).where(alike).order_by(DagRun.id.desc()).limit(1)
    with create_session() as session:
        return session.scalar(newest.where(DagRun.state.in_(LIVE))), session.scalar(newest)


def _run_infos(session: Session, runs: Sequence[DagRun]) -> list[RunInfo]:
    states: dict[tuple[str, str], dict[str, dict[int, str]]] = {}
    by_dag: dict[str, list[str]] = {}
    for run in runs:
        by_dag.setdefault(run.dag_id, []).append(run.run_id)
    for dag_id, run_ids in by_dag.items():
        columns = (TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state)
        found = session.execute(select(*columns).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids)))
        for run_id, task, index, state in found:
            states.setdefault((dag_id, run_id), {}).setdefault(task, {})[index] = str(state or "none")
    return [
        RunInfo(
            dag_id=run.dag_id,
            run_id=run.run_id,
            state=str(run.state),
            tasks=states.get((run.dag_id, run.run_id), {}),
            conf=run.conf if isinstance(run.conf, dict) else {},
            queued_at=_text(run.queued_at),
            started_at=_text(run.start_date),
            ended_at=_text(run.end_date),
        )
        for run in runs
    ]


def _text(moment: datetime | None) -> str | None:
    return pendulum.instance(moment).in_timezone("UTC").to_iso8601_string() if moment is not None else None


def trigger(dag_id: str, conf: Mapping[str, Any], *, run_id: str | None = None, user: str | None = None) -> str:
    """
    Trigger a run, and return its id.

    :param run_id: ``None``: generated by Airflow.
    :raises RequestError: the DAG does not exist, is paused, or does not accept the params.
    :raises ConflictError: the run exists already.
    """
    from airflow.api.common.trigger_dag import trigger_dag

    with create_session() as session:
        model = session.get(DagModel, dag_id)
        if model is None or model.is_stale or model.has_import_errors:
            raise RequestError(f"there is no DAG '{dag_id}' in this Airflow, or its file has errors: ask who runs it.")
        if model.is_paused:
            raise RequestError(f"the DAG '{dag_id}' is paused, its runs would never begin: unpause it first.")
    try:
        run = trigger_dag(
            dag_id,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=user,
            run_id=run_id,
            conf=dict(conf),
        )
    except (DagRunAlreadyExists, IntegrityError) as error:
        raise ConflictError(f"there is a run '{run_id}' of the DAG '{dag_id}' already.") from error
    except ParamValidationError as error:
        # The DAG's author allows less than the job does.
        raise RequestError(f"the DAG '{dag_id}' does not admit these params: {error}") from error
    except DagNotFound as error:
        raise RequestError(f"there is no DAG '{dag_id}' in this Airflow.") from error
    if run is None:
        raise RequestError(f"the DAG '{dag_id}' could not be triggered.")
    return str(run.run_id)


def resume(info: RunInfo) -> int:
    """
    Clear what has failed in a run that has ended, and what a cancel skipped; all else stays done.

    :returns: the number of cleared task instances.
    :raises ConflictError: the run has not ended.
    """
    wanted = _again(info)
    if not wanted:
        return 0
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == info.dag_id, DagRun.run_id == info.run_id))
        dag = DBDagBag().get_dag_for_run(run, session=session) if run is not None else None
        if dag is None:
            raise RequestError(f"the DAG '{info.dag_id}' is gone: nothing can be resumed.")
        cleared = dag.clear(task_ids=wanted, run_id=info.run_id, session=session)
    run_folder(info.dag_id, info.run_id).remove(CANCELED)
    return int(cleared)


def _at_work(info: RunInfo) -> ColumnElement[bool]:
    return and_(
        TaskInstance.dag_id == info.dag_id,
        TaskInstance.run_id == info.run_id,
        TaskInstance.state.in_(("running", "queued", "scheduled", "deferred", "up_for_retry", "up_for_reschedule")),
    )


def resumable(info: RunInfo) -> dict[str, int]:
    """
    The number of task instances that :func:`resume` would clear, by task id.

    :raises ConflictError: the run has not ended.
    """
    return dict(Counter(one if isinstance(one, str) else one[0] for one in _again(info)))


def _again(info: RunInfo) -> list[str | tuple[str, int]]:
    if info.live:
        raise ConflictError(f"run '{info.run_id}' of '{info.dag_id}' is {info.state}: there is nothing to resume.")
    folder = run_folder(info.dag_id, info.run_id)
    failed = _windows_with_failures(info, folder)
    if info.state == "success" and not failed:
        return []
    work = [state for task, states in info.tasks.items() if task != "aggregate" for state in states.values()]
    broken = failed or any(state in ("failed", "upstream_failed") for state in work)
    # A run that was done once has given up its claim and its plan: it starts from the beginning, and embeds what is
    # missing.
    from_start = broken and (ITEMS if info.kind == COLLECTION else PLAN) not in folder.names()
    # The report, and the verification of a window's items, are out of date once anything is repeated.
    after = {"verify", "approve", "switch", "aggregate"} if failed else {"aggregate"}
    return [
        (task, index) if index >= 0 else task
        for task, states in info.tasks.items()
        for index, state in states.items()
        if from_start or state in _AGAIN or task in after or (task == "reindex" and index in failed)
    ]


def _windows_with_failures(info: RunInfo, folder: Folder) -> set[int]:
    """Windows whose tasks succeeded with failed items: they are retried along with their window."""
    if info.kind != COLLECTION:
        return set()
    records = task_records(folder)
    found = {record.index for record in records if record.task == "reindex" and record.result.get("failed")}
    whole = next((r.result for r in records if r.task == "verify" and not r.error), {})
    # Failures of a catch-up belong to no window that reports them.
    return found or (set(info.states("reindex")) if whole.get("failed") else set())


def cancel(info: RunInfo, user: str) -> None:
    """
    Cancel a run: running tasks are stopped, waiting ones skipped. What it has done stays, for a resume.

    :raises ConflictError: the run has ended.
    """
    from airflow.api.common.mark_tasks import set_dag_run_state_to_failed

    if not info.live:
        raise ConflictError(f"run '{info.run_id}' of '{info.dag_id}' has ended: there is nothing to cancel.")
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == info.dag_id, DagRun.run_id == info.run_id))
        dag = DBDagBag().get_dag_for_run(run, session=session) if run is not None else None
        if dag is None:
            raise RequestError(f"the DAG '{info.dag_id}' is gone: mark its run as failed in Airflow's UI.")
        quiet = 0
        for _ in range(_CANCELS):
            set_dag_run_state_to_failed(dag=dag, run_id=info.run_id, commit=True, session=session)
            session.commit()
            at_work = session.scalar(select(func.count()).select_from(TaskInstance).where(_at_work(info)))
            quiet = 0 if at_work else quiet + 1
            if quiet == _QUIET_LOOKS:
                break
            # A task that the scheduler had already picked may still start.
            time.sleep(0.3)
    run_folder(info.dag_id, info.run_id).write_json(CANCELED, {"at": now(), "by": user})
