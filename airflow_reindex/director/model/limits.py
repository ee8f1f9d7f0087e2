"""The load that a build may put on its servers; can be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.params import whole_number

#: Slots of the semaphore of working connections; without a limit one works without a slot when all are taken.
MAX_CONNECTIONS = 64


#: A slice is one transaction, in which the claim cannot change hands, so it must not take too long.
LEAST_RATE = 1_000


@dataclass(frozen=True)
class Limits:
    """
    What a build may ask of its servers; 0 means no limit.

    :param rows_per_second: rows that all its tasks together read or load.
    :param connections: connections that load or verify at the same time.
    """

    rows_per_second: int = 0
    connections: int = 0

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> Limits:
        """
        Read the params of a run.

        :raises RequestError: when they are not numbers, when a slice's transaction would take too long at this rate, or
            when there are fewer slots than connections.
        """
        rate = whole_number(params.get("max_rows_per_second"), "max_rows_per_second")
        if 0 < rate < LEAST_RATE:
            raise RequestError(f"the parameter max_rows_per_second takes 0 (no limit) or at least {LEAST_RATE}.")
        connections = whole_number(params.get("max_connections"), "max_connections")
        if connections > MAX_CONNECTIONS:
            raise RequestError(f"the parameter max_connections takes 0 (no limit) or at most {MAX_CONNECTIONS}.")
        return cls(rate, connections)
