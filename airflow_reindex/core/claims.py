"""The claim on what a run builds: its owner, when it may be taken over, and its heartbeat."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from airflow_reindex.core.failures import ClaimLostError

log = logging.getLogger(__name__)

#: Seconds between two heartbeats.
BEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Owner:
    """
    The run that holds a claim.

    :param deployment: which Airflow the run belongs to; the state of another deployment's runs cannot be looked up.
    :param host: where the plan ran.
    :param folder: the URL of the run's staging folder.
    """

    deployment: str
    dag_id: str
    run_id: str
    host: str
    folder: str

    def __str__(self) -> str:
        return f"run '{self.run_id}' of DAG '{self.dag_id}' (host {self.host})"

    def same_run(self, other: Owner) -> bool:
        """Whether both are the same run, on whichever host its plan ran."""
        return (self.deployment, self.dag_id, self.run_id) == (other.deployment, other.dag_id, other.run_id)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    A claim on a destination.

    :param token: drawn anew for each claim; every write of the run is fenced by it.
    :param silent: seconds since the last heartbeat, by the target's clock.
    """

    dest: str
    source: str
    token: str
    owner: Owner
    silent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Contender:
    """
    The run that wants a claim, and how it judges other owners.

    :param state_of: the state of another run of this deployment by DAG id and run id: ``running``, ``success``, ...;
        ``None`` when there is no such run.
    :param claim_timeout: seconds without a heartbeat after which an owner counts as dead.
    :param force: whether to take over from a run that seems to be alive.
    """

    owner: Owner
    state_of: Callable[[str, str], str | None]
    claim_timeout: float
    force: bool = False

    def must_respect(self, owner: Owner, silent: float) -> bool:
        """
        Whether a claim keeps this run out.

        A claim of this same run, of a run that has ended, or of one past the claim timeout can be taken over.

        :param silent: seconds since the owner's last heartbeat.
        """
        if self.force or silent > self.claim_timeout:
            return False
        if owner.same_run(self.owner):
            return False
        ended = owner.deployment == self.owner.deployment and self.state_of(owner.dag_id, owner.run_id) in (
            "success",
            "failed",
        )
        return not ended

    def advice(self, silent: float) -> str:
        """Sentences that tell the user of a refused run what to do."""
        return (
            f"Last heartbeat {silent:.0f} s ago. Wait for its end. Should it be dead, it can be taken over after "
            f"{self.claim_timeout:.0f} s of silence, or at once with force_takeover=true."
        )


class Keeper:
    """
    Sends a claim's heartbeat from a thread while a task works, and notices when the claim is lost.

    :param beat: sends one heartbeat; returns whether the claim is still there.
    :param lost: makes the error to raise when it is not.
    """

    def __init__(
        self, beat: Callable[[], bool], lost: Callable[[], ClaimLostError], *, every: float = BEAT_SECONDS
    ) -> None:
        self._beat, self._make_error, self._every = beat, lost, every
        self._lost, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="reindex-claim", daemon=True)

    def __enter__(self) -> Keeper:
        if not self._beat():
            raise self._make_error()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=self._every)

    def check(self) -> None:
        """
        Stop the work when the claim is gone.

        :raises ClaimLostError: when another run has taken over.
        """
        if self._lost.is_set():
            raise self._make_error()

    def wait(self, seconds: float) -> None:
        """
        Wait; the loss of the claim ends the wait at once.

        :raises ClaimLostError: when another run has taken over.
        """
        self._lost.wait(seconds)
        self.check()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                if not self._beat():
                    self._lost.set()
                    return
            except Exception as error:
                # The work itself notices a server that stays away; one missed heartbeat is no reason to stop.
                log.warning("no heartbeat could be sent for the claim: %s", error)
