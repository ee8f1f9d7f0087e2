"""Which items are embedded, left or removed: against an oracle, and what `protect` promises to writers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from airflow_reindex.vectors.model.collection import Mark, State
from airflow_reindex.vectors.sync.decide import Decision, Rules, decide

ONE, TWO, THREE = (digit * 16 for digit in (b"1", b"2", b"3"))
NOW = Rules(recipe=b"r", run="now")
LANDED = Mark(ONE, b"r", run="before")
FAILED = Mark(ONE, b"r", stage="on_inference", detail="refused", run="now")

_FLAGS = (False, True)
_MARKS = [
    Mark(version, recipe, stage=stage, run=run)
    for version, recipe, stage, run in product((ONE, TWO), (b"r", b"s"), ("", "on_upsert"), ("now", "before"))
]
#: All that can be known of an item, by a key of its own: its version in the source, its state in the destination.
CASES = {
    str(number): (version, State(row, mark))
    for number, (version, row, mark) in enumerate(product((None, ONE, TWO), (None, ONE, TWO, THREE), [None, *_MARKS]))
}
SOURCE = {key: version for key, (version, _) in CASES.items() if version}
# A store tells nothing of an object that has neither.
DEST = {key: state for key, (_, state) in CASES.items() if state.row or state.mark}
ALL_RULES = [
    Rules(recipe=b"r", run="now", preserve_newer=preserve_newer, drop_gone=drop_gone, skip_failed=skip_failed)
    for preserve_newer, drop_gone, skip_failed in product(_FLAGS, _FLAGS, _FLAGS)
]


def somebody_elses(state: State) -> bool:
    """Whether the row is not what the mark says, or was removed after it had landed."""
    if state.row is None:
        return state.mark is not None and not state.mark.stage
    return state.mark is None or state.mark.version != state.row


def expected(version: bytes | None, state: State | None, rules: Rules) -> str:
    """What is to become of one item, said in another way."""
    there = state or State(None, None)
    mark = there.mark
    theirs = rules.preserve_newer and somebody_elses(there)
    if version is None:
        if theirs and there.row is not None:
            return "written"
        return "delete" if not rules.preserve_newer or rules.drop_gone else "nothing"
    in_step = mark is not None and (mark.version, mark.recipe) == (version, rules.recipe)
    if theirs:
        return "removed" if there.row is None else "written"
    if rules.skip_failed and failed_now(there, version):
        return "failed"
    landed = in_step and mark is not None and not mark.stage and there.row == version
    return "unchanged" if landed else "embed"


def failed_now(state: State, version: bytes) -> bool:
    mark = state.mark
    return mark is not None and bool(mark.stage) and (mark.version, mark.recipe, mark.run) == (version, b"r", "now")


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
    after |= {key: State(SOURCE[key], Mark(SOURCE[key], rules.recipe, run=rules.run)) for key in first.embed}
    second = decide(SOURCE, after, rules)
    assert (list(second.embed), list(second.delete), dict(second.failed)) == ([], [], dict(first.failed))


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (State(ONE, LANDED), "unchanged"),
        (State(ONE, replace(LANDED, recipe=b"s")), "embed"),
        (State(ONE, replace(LANDED, version=TWO)), "embed"),
        (State(TWO, LANDED), "embed"),
        (State(None, LANDED), "embed"),
        (State(ONE, None), "embed"),
        (State(None, FAILED), "embed"),
        (State(ONE, FAILED), "embed"),
        (None, "embed"),
    ],
)
def test_without_protection_the_source_is_the_truth(state: State | None, what: str) -> None:
    assert told(decide({"a": ONE}, {"a": state} if state else {}, NOW)) == {"a": what}


@pytest.mark.parametrize(
    ("state", "what", "why"),
    [
        (State(TWO, LANDED), "written", "a writer has replaced the row"),
        (State(None, LANDED), "removed", "a writer has removed the row: it must not come back"),
        (State(TWO, None), "written", "a writer has made the row"),
        (State(TWO, FAILED), "written", "a writer has made what could not be embedded"),
        (State(ONE, replace(LANDED, recipe=b"s")), "embed", "the row is this package's own"),
        (State(ONE, FAILED), "embed", "the row was kept when it failed, and is tried again"),
        (State(None, FAILED), "embed", "it has never landed"),
    ],
)
def test_protected_rows(state: State, what: str, why: str) -> None:
    assert told(decide({"a": ONE}, {"a": state}, replace(NOW, preserve_newer=True))) == {"a": what}, why


def test_failures_are_left_alone_only_while_nothing_has_changed() -> None:
    skip = replace(NOW, skip_failed=True)
    state = {"a": State(None, FAILED)}
    assert decide({"a": ONE}, state, skip).failed == {"a": FAILED}
    assert told(decide({"a": TWO}, state, skip)) == {"a": "embed"}, "the row was mended"
    assert told(decide({"a": ONE}, state, replace(skip, run="next"))) == {"a": "embed"}, "another run tries again"
    assert told(decide({"a": ONE}, state, replace(skip, recipe=b"s"))) == {"a": "embed"}
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
    after = {key: state.mark for key, state in DEST.items() if key not in decision.embed and key not in decision.delete}
    failed = [mark for key, mark in after.items() if mark and mark.stage and mark.run == "now"]
    if not drop_gone:
        failed = [
            mark for key, mark in after.items()
            if mark and mark.stage and mark.run == "now" and (key in SOURCE or somebody_elses(DEST[key]))
        ]  # fmt: skip
    assert len(rows) == len(SOURCE) - len(failed) - len(decision.removed) + decision.surplus
