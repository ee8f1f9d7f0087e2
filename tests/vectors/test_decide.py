"""Which items are embedded, left or removed: against an oracle, and what `preserve_newer` promises to writers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from airflow_reindex.vectors.model.collection import DestState, SyncState
from airflow_reindex.vectors.sync.decide import Decision, Rules, decide

ONE, TWO, THREE = (digit * 16 for digit in (b"1", b"2", b"3"))
NOW = Rules(embedding_config_hash=b"r", plan_token="now")
LANDED = SyncState(ONE, b"r", plan_token="before")
FAILED = SyncState(ONE, b"r", stage="on_inference", detail="refused", plan_token="now")

_FLAGS = (False, True)
_MARKS = [
    SyncState(version, config, stage=stage, plan_token=token)
    for version, config, stage, token in product((ONE, TWO), (b"r", b"s"), ("", "on_upsert"), ("now", "before"))
]
#: All that can be known of an item, by a key of its own: its version in the source, its state in the destination.
CASES = {
    str(number): (version, DestState(row, mark))
    for number, (version, row, mark) in enumerate(product((None, ONE, TWO), (None, ONE, TWO, THREE), [None, *_MARKS]))
}
SOURCE = {key: version for key, (version, _) in CASES.items() if version}
# A store tells nothing of an object that has neither.
DEST = {key: state for key, (_, state) in CASES.items() if state.row or state.sync}
ALL_RULES = [
    Rules(
        embedding_config_hash=b"r",
        plan_token="now",
        preserve_newer=preserve_newer,
        drop_gone=drop_gone,
        skip_failed=skip_failed,
    )
    for preserve_newer, drop_gone, skip_failed in product(_FLAGS, _FLAGS, _FLAGS)
]


def somebody_elses(state: DestState) -> bool:
    """Whether the row is not what the mark says, or was removed after it had landed."""
    if state.row is None:
        return state.sync is not None and not state.sync.stage
    return state.sync is None or state.sync.version != state.row


def expected(version: bytes | None, state: DestState | None, rules: Rules) -> str:
    """What is to become of one item, said in another way."""
    there = state or DestState(None, None)
    mark = there.sync
    theirs = rules.preserve_newer and somebody_elses(there)
    if version is None:
        if theirs and there.row is not None:
            return "written"
        return "delete" if not rules.preserve_newer or rules.drop_gone else "nothing"
    in_step = mark is not None and (mark.version, mark.embedding_config_hash) == (version, rules.embedding_config_hash)
    if theirs:
        return "removed" if there.row is None else "written"
    if rules.skip_failed and failed_now(there, version):
        return "failed"
    landed = in_step and mark is not None and not mark.stage and there.row == version
    return "unchanged" if landed else "embed"


def failed_now(state: DestState, version: bytes) -> bool:
    mark = state.sync
    return (
        mark is not None
        and bool(mark.stage)
        and (mark.version, mark.embedding_config_hash, mark.plan_token) == (version, b"r", "now")
    )


KINDS = ("embed", "delete", "unchanged", "failed", "written", "removed")


def told(decision: Decision) -> dict[str, str]:
    """The decision by item; none is in two lists."""
    pairs = [(key, name) for name in KINDS for key in getattr(decision, name)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("rules", ALL_RULES)
def test_every_case_against_an_oracle(rules: Rules) -> None:
    wanted = {key: expected(SOURCE.get(key), DEST.get(key), rules) for key in SOURCE.keys() | DEST.keys()}
    assert told(decide(SOURCE, DEST, rules)) == {key: what for key, what in wanted.items() if what != "nothing"}


@pytest.mark.parametrize("rules", ALL_RULES)
def test_done_again_it_does_nothing(rules: Rules) -> None:
    first = decide(SOURCE, DEST, rules)
    after = {key: state for key, state in DEST.items() if key not in first.delete}
    after |= {
        key: DestState(SOURCE[key], SyncState(SOURCE[key], rules.embedding_config_hash, plan_token=rules.plan_token))
        for key in first.embed
    }
    second = decide(SOURCE, after, rules)
    assert (list(second.embed), list(second.delete), dict(second.failed)) == ([], [], dict(first.failed))


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (DestState(ONE, LANDED), "unchanged"),
        (DestState(ONE, replace(LANDED, embedding_config_hash=b"s")), "embed"),
        (DestState(ONE, replace(LANDED, version=TWO)), "embed"),
        (DestState(TWO, LANDED), "embed"),
        (DestState(None, LANDED), "embed"),
        (DestState(ONE, None), "embed"),
        (DestState(None, FAILED), "embed"),
        (DestState(ONE, FAILED), "embed"),
        (None, "embed"),
    ],
)
def test_without_protection_the_source_is_the_truth(state: DestState | None, what: str) -> None:
    assert told(decide({"a": ONE}, {"a": state} if state else {}, NOW)) == {"a": what}


@pytest.mark.parametrize(
    ("state", "what", "why"),
    [
        (DestState(TWO, LANDED), "written", "a writer has replaced the row"),
        (DestState(None, LANDED), "removed", "a writer has removed the row: it must not come back"),
        (DestState(TWO, None), "written", "a writer has made the row"),
        (DestState(TWO, FAILED), "written", "a writer has made what could not be embedded"),
        (DestState(ONE, replace(LANDED, embedding_config_hash=b"s")), "embed", "the row is this package's own"),
        (DestState(ONE, FAILED), "embed", "the row was kept when it failed, and is tried again"),
        (DestState(None, FAILED), "embed", "it has never landed"),
    ],
)
def test_protected_rows(state: DestState, what: str, why: str) -> None:
    assert told(decide({"a": ONE}, {"a": state}, replace(NOW, preserve_newer=True))) == {"a": what}, why


def test_failures_are_left_alone_only_while_nothing_has_changed() -> None:
    skip = replace(NOW, skip_failed=True)
    state = {"a": DestState(None, FAILED)}
    assert decide({"a": ONE}, state, skip).failed == {"a": FAILED}
    assert told(decide({"a": TWO}, state, skip)) == {"a": "embed"}, "the row was mended"
    assert told(decide({"a": ONE}, state, replace(skip, plan_token="next"))) == {"a": "embed"}, (
        "another run tries again"
    )
    assert told(decide({"a": ONE}, state, replace(skip, embedding_config_hash=b"s"))) == {"a": "embed"}
    assert told(decide({}, state, skip)) == {"a": "delete"}, "gone from the source"


@pytest.mark.parametrize("drop_gone", _FLAGS)
@pytest.mark.parametrize("skip_failed", _FLAGS)
def test_what_others_did_is_accounted_for(drop_gone: bool, skip_failed: bool) -> None:
    """After a pass: rows = items of the source - failed - removed by others + surplus, whatever others did."""
    rules = replace(NOW, preserve_newer=True, drop_gone=drop_gone, skip_failed=skip_failed)
    decision = decide(SOURCE, DEST, rules)
    rows = {key for key, state in DEST.items() if state.row} | set(decision.embed)
    # Of what has failed in this run the row is gone by then, unless it is somebody else's.
    rows -= {*decision.delete, *decision.failed}
    if not drop_gone:
        rows -= {key for key, state in DEST.items() if key not in SOURCE and not somebody_elses(state)}
    after = {key: state.sync for key, state in DEST.items() if key not in decision.embed and key not in decision.delete}
    failed = [mark for key, mark in after.items() if mark and mark.stage and mark.plan_token == "now"]
    if not drop_gone:
        failed = [
            mark for key, mark in after.items()
            if mark and mark.stage and mark.plan_token == "now" and (key in SOURCE or somebody_elses(DEST[key]))
        ]  # fmt: skip
    assert len(rows) == len(SOURCE) - len(failed) - len(decision.removed) + decision.surplus
