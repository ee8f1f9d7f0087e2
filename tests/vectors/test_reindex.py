"""Whole reindexes, step by step: every item is in the destination or listed, and a second run does nothing."""

from __future__ import annotations

import pytest

from tests.support.reindex import NEW, OLD, Admin, Factory, make_source, rows_of, texts


@pytest.mark.parametrize("total", [0, 1, 15, 16, 17, 64, 65, 80])
def test_totals(admin: Admin, reindex: Factory, total: int) -> None:
    make_source(admin, texts(total))
    run = reindex()
    report = run.run()
    assert (report["status"], report["total"], report["count"], report["failed"]) == ("done", total, total, 0)
    assert [window.offset for window in run.plan_made.windows] == list(range(0, total, 16))
    assert sum(window.limit for window in run.plan_made.windows) == total
    assert rows_of(admin, NEW) == rows_of(admin, OLD)
    assert set(run.embedded().values()) <= {1, 3}, "each text once; the probe of plan and the like apart"


def test_second_run_embeds_nothing(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(50))
    first = reindex()
    first.run()
    before = first.embedded()
    second = reindex("second")
    second.states["reindex_collection", "run"] = "success"
    assert second.run()["status"] == "done"
    new = {text for text, count in second.embedded().items() if count != before.get(text)}
    assert len(new) == 1, "only the probe of the plan"
