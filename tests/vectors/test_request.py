"""What a request may say, and how many failures it allows."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_reindex.core.failures import RequestError
from airflow_reindex.vectors.model.request import BATCH_SIZE, FailureLimit, ReindexRequest
from tests.support.samples import examples

BOTH = {"source_embedding_model_id": "old", "dest_embedding_model_id": "new"}


def parse(**params: Any) -> ReindexRequest:
    return ReindexRequest.parse({**BOTH, **params})


def test_defaults() -> None:
    expected = ReindexRequest(source_embedding_model_id="old", dest_embedding_model_id="new")
    assert parse() == expected
    assert (expected.batch_size, expected.max_failed, expected.writes_go_to) == (BATCH_SIZE, -1, "source")
    # Airflow's form sends None for what was left empty, and EmbeddingStudio's flags are nullable.
    names = expected.as_dict().keys() - BOTH.keys()
    assert ReindexRequest.parse({**BOTH, **dict.fromkeys(names)}) == expected


def test_texts_that_plainly_mean_numbers() -> None:
    request = parse(batch_size="7", max_subtasks=" 2 ", max_failed="0.5", dry_run="true", wait_on_conflict=1)
    assert parse(max_same_vectors="0.5").max_same_vectors == 0.5
    assert (request.batch_size, request.max_subtasks, request.max_failed) == (7, 2, 0.5)
    assert (request.dry_run, request.wait_on_conflict, request.force_takeover) == (True, True, False)


def test_as_dict_is_read_again() -> None:
    request = parse(deploy_as_blue=True, alias="a", delete_source=1, max_failed=0.25, writes_go_to="dest", loader="s3")
    assert ReindexRequest(**request.as_dict()) == ReindexRequest.parse(request.as_dict()) == request


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"source_embedding_model_id": None}, "source_embedding_model_id is missing"),
        ({"dest_embedding_model_id": ""}, "dest_embedding_model_id is missing"),
        ({"dest_embedding_model_id": 3}, "dest_embedding_model_id takes a text, not 3"),
        ({"dest_embedding_model_id": "old"}, "the same embedding model, 'old'"),
        ({"batch_size": 0}, "batch_size takes a whole number from 1, not 0"),
        ({"batch_size": -16}, "batch_size takes"),
        ({"batch_size": 1.5}, "batch_size takes a whole number from 1, not 1.5"),
        ({"batch_size": True}, "batch_size takes"),
        ({"batch_size": "many"}, "batch_size takes .* not 'many'"),
        ({"max_subtasks": 0}, "max_subtasks takes a whole number from 1, not 0"),
        ({"max_same_vectors": 1.5}, "max_same_vectors takes a number from 0 to 1, not 1.5"),
        ({"max_same_vectors": "nan"}, "max_same_vectors takes"),
        ({"max_same_vectors": True}, "max_same_vectors takes"),
        ({"max_failed": -2}, "max_failed must be -1 .* not -2"),
        ({"max_failed": 1.5}, "max_failed must be .* not 1.5"),
        ({"max_failed": -0.5}, "max_failed must be .* not -0.5"),
        ({"max_failed": "x"}, "max_failed must be .* not 'x'"),
        ({"max_failed": "nan"}, "max_failed must be"),
        ({"max_failed": "inf"}, "max_failed must be"),
        ({"max_failed": True}, "max_failed must be .* not True"),
        ({"max_failed": [1]}, "max_failed must be"),
        ({"writes_go_to": "both"}, "writes_go_to must be 'source' or 'dest', not 'both'"),
        ({"writes_go_to": 1}, "writes_go_to must be"),
        ({"alias": 5}, "alias takes a text, not 5"),
        ({"deploy_as_blue": True}, "deploy_as_blue needs alias"),
        ({"delete_source": True}, "delete_source needs deploy_as_blue"),
        ({"delete_source": True, "alias": "a"}, "delete_source needs deploy_as_blue"),
        ({"overwrite_foreign": True, "writes_go_to": "dest"}, "overwrite_foreign contradicts writes_go_to=dest"),
        ({"dry_run": "perhaps"}, "dry_run takes a number .* not 'perhaps'"),
    ],
)
def test_refused(params: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse(**params)


@pytest.mark.parametrize(
    ("value", "failed", "total", "exceeded", "forbids"),
    [
        (-1, 0, 5, False, False),
        (-1, 5, 5, False, True),
        (0, 0, 5, False, False),
        (0, 1, 5, True, True),
        (4, 4, 5, False, False),
        (4, 5, 5, True, True),
        # int(0.1 * 5) is 0: EmbeddingStudio fails here without a single failure.
        (0.1, 0, 5, False, False),
        (0.1, 1, 5, True, True),
        (0.1, 1, 10, False, False),
        (0.1, 2, 10, True, True),
        (0.5, 0, 0, False, False),
        (0.5, 0, 1, False, False),
        (0.5, 1, 1, True, True),
        # 0.29 * 100 is 28.999999999999996.
        (0.29, 29, 100, False, False),
        (0.29, 30, 100, True, True),
    ],
)
def test_limit(value: float, failed: int, total: int, exceeded: bool, forbids: bool) -> None:
    limit = FailureLimit.parse(value)
    assert (limit.exceeded(failed, total), limit.forbids_switch(failed, total)) == (exceeded, forbids)


@examples(300)
@given(percent=st.integers(1, 999), total=st.integers(0, 10**6), more=st.integers(-2, 2))
@example(percent=290, total=100, more=0)
def test_a_fraction_is_exact(percent: int, total: int, more: int) -> None:
    allowed = Fraction(percent, 1000) * total
    failed = max(0, math.floor(allowed) + more)
    assert FailureLimit.parse(percent / 1000).exceeded(failed, total) == (failed > allowed)


def test_limits_are_told_as_they_were_given() -> None:
    assert [str(FailureLimit.parse(value)) for value in (-1, 0, "3", 2.0, 0.25)] == ["-1", "0", "3", "2", "0.25"]
