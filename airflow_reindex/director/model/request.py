"""The params of `build_director_index`, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.params import choice, flag
from airflow_reindex.director.model.limits import Limits
from airflow_reindex.director.mysql.identifiers import MAX_IDENTIFIER, check_identifier

#: Params that are yes or no.
FLAGS = ("rebuild", "local", "keep_previous", "force_takeover", "dry_run", "allow_unlisted_chunks")


class ChangedChunks(StrEnum):
    """The policy for chunk tables that change between being read and the swap."""

    WARN = "warn"
    FAIL = "fail"
    REREAD = "reread"


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """
    A request to (re)build one director index.

    :param rebuild: whether an existing index may be replaced.
    :param local: true for ``LOAD DATA LOCAL INFILE``, false for files that the server reads itself.
    :param unique_primary_key: whether the key is unique; ``None``: as the catalog says, otherwise true.
    :param director_key: the key column; ``None``: as the catalog says, otherwise ``objectId``.
    :param keep_previous: whether the replaced index is kept for a roll-back.
    :param force_takeover: whether to take the claim from a run that seems to be alive.
    :param dry_run: whether to stop after the checks.
    :param allow_unlisted_chunks: whether to leave out chunk tables with rows that the catalog does not list.
    :param limits: the initial limits of the build.
    """

    database: str
    director_table: str
    rebuild: bool = False
    local: bool = False
    unique_primary_key: bool | None = None
    director_key: str | None = None
    keep_previous: bool = False
    force_takeover: bool = False
    dry_run: bool = False
    allow_unlisted_chunks: bool = False
    limits: Limits = field(default_factory=Limits)
    changed_chunks: ChangedChunks = ChangedChunks.WARN

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BuildRequest:
        """Read a request back from a plan."""
        policy = ChangedChunks(value.get("changed_chunks", ChangedChunks.WARN))
        return cls(**{**value, "limits": Limits(**value["limits"]), "changed_chunks": policy})

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> BuildRequest:
        """
        Read the params of a run; a string or boolean that plainly means a number is accepted.

        :raises RequestError: when a name is missing, too long or no identifier, or a flag is no flag.
        """
        for name in ("database", "director_table"):
            if not params.get(name):
                raise RequestError(f"required parameter {name} is missing in the request.")
        unique = params.get("unique_primary_key")
        key = params.get("director_key")
        request = cls(
            database=check_identifier(params["database"], "database"),
            director_table=check_identifier(params["director_table"], "director table"),
            unique_primary_key=None if unique in (None, "") else flag(unique, "unique_primary_key"),
            director_key=check_identifier(key, "director key") if key else None,
            **{name: flag(params.get(name, 0), name) for name in FLAGS},
            limits=Limits.parse(params),
            changed_chunks=choice(params.get("changed_chunks"), ChangedChunks, "changed_chunks"),
        )
        if len(request.index_table) > MAX_IDENTIFIER:
            raise RequestError(
                f"MySQL table name limit of 64 characters has been exceeded for table '{request.index_table}'."
            )
        return request

    def as_params(self) -> dict[str, Any]:
        """The params of a run that asks for the same; equal requests have equal ones, however they were written."""
        fields = asdict(self)
        limits = fields.pop("limits")
        fields |= {"max_rows_per_second": limits["rows_per_second"], "max_connections": limits["connections"]}
        return {name: int(value) if isinstance(value, bool) else value for name, value in fields.items()}

    @property
    def index_table(self) -> str:
        """The index table's name, as Qserv forms it: ``<database>__<director_table>``."""
        return f"{self.database}__{self.director_table}"
