"""`airflow-reindex` with runs: what it shows of builds that ended well and badly, and what it does with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_reindex.cli.__main__ import main
from sandbox.catalog.catalog import CatalogSpec, truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers.cluster import Sandbox
from tests.support.build import assert_same, read_index
from tests.system.conftest import Run

BUILD = "build_director_index"
Trigger = Callable[..., Run]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call the command line; its exit status and what it prints."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out if status != 2 else said.err

    return call


def as_json(answer: tuple[int, str]) -> tuple[int, Any]:
    return answer[0], json.loads(answer[1])


def test_finished_build(
    command: Callable[..., tuple[int, str]], trigger: Trigger, sandbox: Sandbox, catalog: CatalogFactory
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10, seed=61), fresh=True)
    old = trigger(database=made.spec.database, director_table="Object").dag_run.run_id
    run = trigger(database=made.spec.database, director_table="Object", rebuild=1, keep_previous=1)
    run_id = run.dag_run.run_id
    status, seen = as_json(command("status", BUILD, run_id, "--json"))
    assert (status, seen["status"], seen["rows"]) == (0, "done", made.rows)
    status, text = command("status", BUILD, "latest", "--watch")
    assert status == 0
    assert run_id in text
    assert "publish" in text
    assert "worker-1" in text
    status, listed = as_json(command("status", BUILD, "--limit", "2", "--json"))
    assert (status, [one["run_id"] for one in listed]) == (0, [run_id, old])
    assert command("errors", BUILD, run_id) == (0, "nothing has failed\n")
    assert command("resume", BUILD, run_id) == (0, f"would clear nothing of run '{run_id}'; --yes does it\n")
    status, text = command("cancel", BUILD, run_id, "--yes")
    assert status == 2
    assert "has ended: there is nothing to cancel" in text

    status, text = command("rollback", BUILD, run_id)
    assert status == 0
    assert "would run RENAME TABLE" in text
    status, found = as_json(command("rollback", BUILD, run_id, "--json"))
    assert (status, found["done"]) == (0, False)
    assert found["statement"] in text
    status, text = command("rollback", BUILD, run_id, "--yes")
    assert status == 0, text
    assert_same(read_index(sandbox, f"{made.spec.database}__Object"), truth(made.spec).index_rows())
    status, text = command("rollback", BUILD, run_id, "--yes")
    assert status == 2
    assert "the index stays as it is" in text
    status, text = command("rollback", BUILD, old)
    assert status == 2
    assert "has kept no previous index" in text


def test_failed_build(command: Callable[..., tuple[int, str]], trigger: Trigger, catalog: CatalogFactory) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=12, missing=2, seed=62), fresh=True)
    run_id = trigger(database=made.spec.database, director_table="Object").dag_run.run_id
    status, text = command("status", BUILD, run_id)
    assert status == 1
    assert "failed" in text
    expected = {str(chunk): workers[0] for chunk, workers in made.missing_on.items()}
    status, found = as_json(command("errors", BUILD, run_id, "--json"))
    assert status == 1
    assert {chunk: worker for worker, chunks in found["Object"].items() for chunk in chunks} == expected
    chunk = min(expected)
    status, text = command("failed", BUILD, run_id, "--grep", chunk)
    assert chunk in text
    assert max(expected) not in text
    status, text = command("errors", BUILD, run_id, "--by-kind")
    assert "missing_table" in text
    assert len(command("errors", BUILD, run_id, "--csv")[1].splitlines()) == 3
    status, text = command("resume", BUILD, run_id)
    assert status == 0
    assert "extract" in text
    assert "1 aggregate" in text


def test_estimate(
    command: Callable[..., tuple[int, str]], connections: Callable[..., None], sandbox: Sandbox, catalog: CatalogFactory
) -> None:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    arguments = ("estimate", "--database", made.spec.database, "--director-table", "Object")
    status, figures = as_json(command(*arguments, "--json"))
    assert (status, figures["rows"], figures["chunks"]) == (0, made.rows, 11)
    assert "two cores" in command(*arguments)[1]
    status, text = command("estimate", "--database", "none", "--director-table", "Object")
    assert status == 2
    assert "no such database 'none'" in text


@pytest.mark.parametrize("name", ["status", "errors", "failed", "resume", "cancel", "rollback"])
@pytest.mark.usefixtures("airflow")
def test_unknown_runs(command: Callable[..., tuple[int, str]], name: str) -> None:
    status, text = command(name, "no such dag", "no such run")
    assert status == 2
    assert "there is no run 'no such run' of a DAG 'no such dag'" in text


def test_help_says_what_each_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name in ("status", "errors", "failed", "resume", "cancel", "rollback", "estimate", "doctor", "repair"):
        assert name in said
