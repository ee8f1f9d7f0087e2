"""What tests of claims share: looking at claims, finishing builds, and acting at a given moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sandbox.catalog.catalog import CatalogSummary, truth
from tests.support.build import Build, assert_same, run_sql, tables_of


def claims(run: Build) -> list[str]:
    """The claim tables on the server."""
    return [name for name in run.working_tables() if name.startswith("claim_")]


def claim_row(run: Build) -> str:
    """The run that the only claim names."""
    (name,) = claims(run)
    ((run_id,),) = run_sql(run.sandbox.czar, f"SELECT run_id FROM airflow_reindex.`{name}`")
    return str(run_id)


def finish(run: Build) -> None:
    """All that is left of a planned build."""
    run.extract_all()
    run.rest()
    run.finish()


def finish_whole(run: Build) -> None:
    """A whole build."""
    run.plan()
    finish(run)


def assert_published(run: Build, made: CatalogSummary) -> None:
    """The index equals the catalog, nothing else is in either database."""
    assert_same(run.index(), truth(made.spec).index_rows())
    assert run.request.index_table in tables_of(run.sandbox, "qservMeta")
    assert run.working_tables() == []


def before_first_call(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, action: Callable[[], object]) -> None:
    """Do something just before a function is called for the first time."""
    real = getattr(module, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        action()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapped)
