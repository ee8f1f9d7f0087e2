"""The params of `audit_director_index`, checked before anything is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.params import whole_number
from airflow_reindex.director.model.request import BuildRequest


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """
    A request to compare a director index with its chunk tables.

    :param index: names the index; the fields that concern a build do not matter.
    :param sample: 1 for all chunks, a fraction of them, or a whole number of them.
    :param seed: chooses the chunks of a sample.
    """

    index: BuildRequest
    sample: Fraction
    seed: int

    @classmethod
    def parse(cls, params: Mapping[str, Any], run_id: str) -> AuditRequest:
        """
        Read the params of a run, whose id is the default seed, so that each run chooses other chunks.

        :raises RequestError: when a param makes no sense.
        """
        given = params.get("seed")
        seed = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4]) if given in (None, "") else given
        names = (
            "database", "director_table", "director_key", "unique_primary_key", "max_rows_per_second",
            "allow_unlisted_chunks",
        )  # fmt: skip
        return cls(
            index=BuildRequest.parse({name: params[name] for name in names if name in params}),
            sample=_sample(params.get("sample", 1)),
            seed=whole_number(seed, "seed"),
        )

    def chunks(self, all_chunks: int) -> int:
        """The number of chunks to compare, of all there are."""
        wanted = self.sample * all_chunks if self.sample <= 1 else self.sample
        return min(all_chunks, max(1, -(-wanted.numerator // wanted.denominator)))


def _sample(value: object) -> Fraction:
    try:
        sample = Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        sample = Fraction(0)
    if sample <= 0 or (sample > 1 and sample.denominator != 1):
        raise RequestError(
            f"the parameter sample takes 1 (all chunks), a fraction of them such as 0.01, or a number of chunks, "
            f"not {value!r}."
        )
    return sample
