"""The params of `reindex_collection`, checked before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.params import flag

#: Items per sub-task; large enough to outweigh the second or so that a mapped task costs Airflow.
BATCH_SIZE = 2000
#: The accepted share of vectors shared by different texts: some models know neither numbers nor rare words.
MAX_SAME_VECTORS = 0.01


@dataclass(frozen=True)
class FailureLimit:
    """
    Number of items that may fail.

    :param value: -1: any number; a whole number from 0; or a fraction of the total, strictly between 0 and 1.
    """

    value: float = -1

    @classmethod
    def parse(cls, value: object) -> FailureLimit:
        """
        Read the param ``max_failed``: a number, or a string that plainly means one.

        :raises RequestError: it is below -1, or a fraction above 1.
        """
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError
            number = float(value)
        except ValueError:
            raise _bad_limit(value) from None
        if number == -1 or (number >= 0 and number.is_integer()) or 0 < number < 1:
            return cls(int(number) if number.is_integer() else number)
        raise _bad_limit(value)

    def exceeded(self, failed: int, total: int) -> bool:
        """Whether too many items have failed."""
        if self.value == -1:
            return False
        # Compared as it was written: 0.29 * 100 is a little less than 29 in floating point.
        return failed > (Fraction(str(self.value)) * total if 0 < self.value < 1 else self.value)

    def forbids_switch(self, failed: int, total: int) -> bool:
        """Whether readers must not be switched over; without a limit a single failure is enough."""
        return failed > 0 if self.value == -1 else self.exceeded(failed, total)

    def __str__(self) -> str:
        return f"{self.value:g}"


def _bad_limit(value: object) -> RequestError:
    return RequestError(
        "max_failed must be -1 (no limit), a whole number from 0, or a fraction strictly between 0 and 1, "
        f"not {value!r}."
    )


@dataclass(frozen=True, kw_only=True)
class ReindexRequest:
    """
    A request to move a collection to another embedding model.

    :param batch_size: items per sub-task.
    :param max_subtasks: simultaneous sub-tasks.
    :param max_failed: see :class:`FailureLimit`.
    :param max_same_vectors: accepted share of vectors shared by different texts, from 0 to 1; 1 accepts any, also a
        model that truncates its input.
    :param alias: the name that readers follow; required for a switch.
    :param writes_go_to: the collection that writers write to during the run.
    :param deploy_as_blue: switch readers over.
    :param wait_on_conflict: wait for another run's claim instead of failing.
    :param loader: the name of a loader defined by the deployment.
    :param delete_source: remove the source after the switch.
    :param overwrite_foreign: overwrite what others have written to the destination, or removed from it; else it is
        kept.
    :param drop_user_objects: allow a switch that leaves personalised copies behind, which are not carried over.
    :param force_takeover: take the claim from a run that seems to be alive.
    :param only_failed_of: a run of this DAG whose failed items are tried again; empty: all items.
    :param query_set: the name of the deployment's queries for the comparison of both models; may be empty.
    :param dry_run: stop after the checks.
    """

    source_embedding_model_id: str
    dest_embedding_model_id: str
    batch_size: int = BATCH_SIZE
    max_subtasks: int = 4
    max_failed: float = -1
    max_same_vectors: float = MAX_SAME_VECTORS
    alias: str = ""
    writes_go_to: Literal["source", "dest"] = "source"
    deploy_as_blue: bool = False
    wait_on_conflict: bool = False
    loader: str = "payload"
    delete_source: bool = False
    overwrite_foreign: bool = False
    drop_user_objects: bool = False
    force_takeover: bool = False
    only_failed_of: str = ""
    query_set: str = ""
    dry_run: bool = False

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> ReindexRequest:
        """
        Read a run's params; a string or boolean that plainly means a number is accepted.

        :raises RequestError: a param is missing, malformed, or contradicts another one.
        """
        writes = params.get("writes_go_to") or "source"
        if writes not in ("source", "dest"):
            raise RequestError(f"writes_go_to must be 'source' or 'dest', not {writes!r}.")
        request = cls(
            source_embedding_model_id=_text(params, "source_embedding_model_id", required=True),
            dest_embedding_model_id=_text(params, "dest_embedding_model_id", required=True),
            batch_size=_number(params, "batch_size", BATCH_SIZE),
            max_subtasks=_number(params, "max_subtasks", 4),
            max_failed=FailureLimit.parse(-1 if params.get("max_failed") is None else params["max_failed"]).value,
            max_same_vectors=_share(params, "max_same_vectors", MAX_SAME_VECTORS),
            writes_go_to="dest" if writes == "dest" else "source",
            loader=_text(params, "loader") or "payload",
            alias=_text(params, "alias"),
            only_failed_of=_text(params, "only_failed_of"),
            query_set=_text(params, "query_set"),
            deploy_as_blue=_flag(params, "deploy_as_blue"),
            wait_on_conflict=_flag(params, "wait_on_conflict"),
            delete_source=_flag(params, "delete_source"),
            overwrite_foreign=_flag(params, "overwrite_foreign"),
            drop_user_objects=_flag(params, "drop_user_objects"),
            force_takeover=_flag(params, "force_takeover"),
            dry_run=_flag(params, "dry_run"),
        )
        request._check()
        return request

    def _check(self) -> None:
        if self.source_embedding_model_id == self.dest_embedding_model_id:
            raise RequestError(
                f"source and destination are the same embedding model, '{self.source_embedding_model_id}': there is "
                "nothing to move."
            )
        if self.deploy_as_blue and not self.alias:
            raise RequestError("deploy_as_blue needs alias: the name that readers follow.")
        if self.overwrite_foreign and self.writes_go_to == "dest":
            raise RequestError(
                "overwrite_foreign contradicts writes_go_to=dest: what writers write to the destination would be lost."
            )
        if self.delete_source and not self.deploy_as_blue:
            raise RequestError("delete_source needs deploy_as_blue: a source that readers follow is not removed.")

    @property
    def limit(self) -> FailureLimit:
        return FailureLimit(self.max_failed)

    def as_dict(self) -> dict[str, Any]:
        """The request as JSON-compatible values."""
        return asdict(self)


def _text(params: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    value = params.get(name)
    if value in (None, ""):
        if required:
            raise RequestError(f"required parameter {name} is missing in the request.")
        return ""
    if not isinstance(value, str):
        raise RequestError(f"the parameter {name} takes a text, not {value!r}.")
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise RequestError(f"the parameter {name} has characters that no database can store: {value!r}.")
    return value


def _flag(params: Mapping[str, Any], name: str) -> bool:
    # Empty means false: EmbeddingStudio's flags are nullable.
    return flag(params.get(name) or 0, name)


def _share(params: Mapping[str, Any], name: str, default: float) -> float:
    value = params.get(name)
    if value is None:
        return default
    try:
        share = float(str(value)) if not isinstance(value, bool) else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RequestError(f"the parameter {name} takes a number from 0 to 1, not {value!r}.")
    return share


def _number(params: Mapping[str, Any], name: str, default: int) -> int:
    value = params.get(name)
    if value is None:
        return default
    try:
        number = int(str(value)) if not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise RequestError(f"the parameter {name} takes a whole number from 1, not {value!r}.")
    return number
