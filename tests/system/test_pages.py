"""The pages in a real browser, before a real API server: builds that are finished, failed and running."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psycopg
import pytest
from playwright.sync_api import Page, expect

from airflow_reindex.core.staging import Folder
from sandbox.catalog.catalog import CatalogSpec
from sandbox.collection.collection_data import SOURCE_MODEL
from sandbox.fixtures import CatalogFactory
from tests.system.api import DAG, trigger
from tests.system.browser import address, barriers, browsing, shoot
from tests.system.conftest import ITEMS, without_text
from tests.system.deployment import Deployment

pytestmark = pytest.mark.browser

BUILD, MOVES = "build_director_index", "/api/v2/dags/reindex_collection"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> =HYPERLINK(\"http://x\") Table 'a' doesn't exist, errno: 1146"


@pytest.fixture(scope="module")
def finished(deployment: Deployment, catalog: CatalogFactory) -> str:
    """A build that has ended well."""
    made = catalog(CatalogSpec(rows=20_000, chunks=40, seed=51))
    with deployment.client("admin") as client:
        run_id = trigger(client, database=made.spec.database, director_table="Object", rebuild=1)
        assert deployment.wait(client, run_id) == "success"
    return run_id


@pytest.fixture(scope="module")
def failed(deployment: Deployment, catalog: CatalogFactory) -> tuple[str, dict[int, Any]]:
    """A build of which two chunks have failed."""
    made = catalog(CatalogSpec(rows=2_000, chunks=12, missing=2, seed=52))
    with deployment.client("admin") as client:
        run_id = trigger(client, database=made.spec.database, director_table="Object", rebuild=1)
        assert deployment.wait(client, run_id) == "failed"
    return run_id, dict(made.missing_on)


def folder_of(deployment: Deployment, run_id: str, dag: str = BUILD) -> Folder:
    return Folder.at(str(deployment.home / "staging")).child(dag, run_id)


def cells(page: Page, box: str, column: int) -> list[str]:
    return page.locator(f"#{box} tbody tr > :nth-child({column})").all_inner_texts()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_finished_build(deployment: Deployment, finished: str, theme: Any, tmp_path: Path) -> None:
    with browsing(deployment, "viewer", theme=theme) as (page, wrong):
        page.goto(address(deployment, BUILD, finished))
        expect(page.locator("#status")).to_have_text("done")
        # Qserv's dummy chunk is one of them.
        expect(page.locator("#figures")).to_have_text("41 of 41 chunks")
        expect(page.locator("#failures")).to_contain_text("Nothing has failed.")
        assert cells(page, "phases", 1) == ["plan", "extract", "split", "load", "publish"]
        assert set(cells(page, "phases", 2)) == {"done"}
        expect(page.locator("#workers tbody tr")).to_have_count(2)
        expect(page.locator("#map")).to_have_attribute("aria-label", "41 chunks: 41 read")
        expect(page.locator("#proof")).to_contain_text("Verification: proven")
        expect(page.locator("#proof")).to_contain_text("Publication: done")
        page.locator("#map").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#cell")).to_contain_text(": read, ")
        expect(page.locator("#ranges tbody tr").first).to_contain_text("done")
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme
        shoot(page, tmp_path, f"finished-{theme}")
        assert wrong == []
        assert barriers(page) == []


@pytest.mark.parametrize(("theme", "width"), [("light", 420), ("dark", 1300)])
def test_failed_build(
    deployment: Deployment, failed: tuple[str, dict[int, Any]], theme: Any, width: int, tmp_path: Path
) -> None:
    run_id, missing = failed
    with browsing(deployment, "admin", theme=theme, width=width) as (page, wrong):
        page.goto(address(deployment, BUILD, run_id))
        expect(page.locator("#status")).to_have_text("failed")
        expect(page.locator("#detail")).to_contain_text("chunks failed")
        expect(page.locator("#failures tbody tr")).to_have_count(2)
        assert sorted(map(int, cells(page, "failures", 1))) == sorted(missing)
        assert all("errno: 1146" in text for text in cells(page, "failures", 4))
        page.get_by_role("button", name="Chunk").click()
        expect(page.locator("#failures th[aria-sort=descending]")).to_have_count(1)
        assert list(map(int, cells(page, "failures", 1))) == sorted(missing, reverse=True)
        page.fill("#q", str(min(missing)))
        expect(page.locator("#failures tbody tr")).to_have_count(1)
        shoot(page, tmp_path, f"failed-{theme}")
        page.fill("#q", "")
        expect(page.locator("#failures tbody tr")).to_have_count(2)
        group = page.locator("#kinds button")
        expect(group).to_contain_text(["2 × missing_table"])
        group.click()
        expect(group).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#failures tbody tr")).to_have_count(2)
        assert wrong == []
        assert barriers(page) == []


def test_running_build(deployment: Deployment, catalog: CatalogFactory, tmp_path: Path) -> None:
    made = catalog(CatalogSpec(rows=150_000, chunks=60, seed=41))
    with deployment.client("admin") as client:
        run_id = trigger(
            client, database=made.spec.database, director_table="Object", rebuild=1, max_rows_per_second=20_000
        )  # fmt: skip
        with browsing(deployment, "viewer") as (page, wrong):
            page.goto(address(deployment, BUILD, run_id))
            expect(page.locator("#status")).to_have_text("processing")
            extract = page.locator("#phases tbody tr", has_text="extract")
            # Figures come from the task's beats, which come every two seconds.
            expect(extract.locator("td").nth(3)).to_contain_text("rows")
            expect(extract.locator("td").nth(4)).to_contain_text("rows/s")
            expect(page.locator("#times")).to_contain_text("Left")
            shoot(page, tmp_path, "running")
            assert barriers(page) == []
            words = [str(Path(sys.executable).with_name("airflow-reindex")), "status", BUILD, run_id, "--watch"]
            watching = subprocess.Popen(words, env=deployment.environment, stdout=subprocess.PIPE, text=True)
            assert deployment.wait(client, run_id) == "success"
            # It notices by itself.
            expect(page.locator("#status")).to_have_text("done")
            expect(page.locator("#announce")).to_have_text("The run is done.")
            shown, _ = watching.communicate(timeout=600)
            assert watching.returncode == 0
            assert "publish: done" in shown
            assert wrong == []


def test_16000_chunks_and_100000_failures(deployment: Deployment, finished: str, tmp_path: Path) -> None:
    """The files of a run of that size, in the place of a small one's."""
    folder = folder_of(deployment, finished)
    kept, report = folder.read_json("view.json"), folder.read_json("report.json")
    numbers = list(range(50_000, 66_000))
    states = [4 if n % 100 == 0 else 2 for n in numbers]
    shown = {
        "workers": [f"worker-{n}" for n in range(40)], "chunk": numbers, "worker": [n % 40 for n in numbers],
        "state": states, "rows": [1_000 + n % 977 for n in numbers], "seconds": [0.001 * (1 + n % 13) for n in numbers],
        "group": [n % 400 for n in numbers],
    }  # fmt: skip
    errors = {"Object": {f"worker-{w}": {str(50_000 + w + 40 * n): HOSTILE for n in range(2_500)} for w in range(40)}}
    try:
        folder.write_json("view.json", {**kept, "chunks": shown})
        folder.write_json("report.json", {**report, "status": "failed", "detail": HOSTILE * 20, "error_ext": {}})
        folder.write_json("error_ext.json", errors)
        with browsing(deployment, "viewer") as (page, wrong):
            page.goto(address(deployment, BUILD, finished))
            # An earlier look may be good enough for a moment.
            page.wait_for_timeout(1_600)
            page.reload()
            expect(page.locator("#failures-title")).to_have_text("Failures (100,000)")
            expect(page.locator("#failures tbody tr")).to_have_count(100)
            expect(page.locator("#map")).to_have_attribute("aria-label", "16,000 chunks: 15840 read, 160 failed")
            assert page.locator("#failures img, #detail img").count() == 0
            assert "owned" not in page.title()
            page.locator("#failure-pages").get_by_role("button", name="Next").click()
            expect(page.locator("#failure-pages")).to_contain_text("101–200 of 100,000")
            page.select_option("#worker", "worker-7")
            expect(page.locator("#failure-pages")).to_contain_text("1–100 of 2,500")
            shoot(page, tmp_path, "large")
            assert wrong == []
        with deployment.client("viewer") as client:
            path = f"/reindex/run/{BUILD}/{quote(finished, safe='')}/failures.csv?worker=worker-7"
            rows = list(csv.reader(io.StringIO(client.get(path).raise_for_status().text)))
        assert len(rows) == 2_501
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
    finally:
        folder.write_json("view.json", kept)
        folder.write_json("report.json", report)
        folder.remove("error_ext.json")


def test_failed_items_are_replayed(deployment: Deployment, packages: psycopg.Connection[Any], tmp_path: Path) -> None:
    move = {"source_embedding_model_id": SOURCE_MODEL, "dest_embedding_model_id": "words_128", "batch_size": 20}
    with deployment.client("mover") as client, without_text(packages) as bad:
        run_id = trigger(client, MOVES, **move)
        assert deployment.wait(client, run_id, MOVES) == "success"
    with deployment.client("mover") as client, browsing(deployment, "mover", theme="dark") as (page, wrong):
        page.goto(address(deployment, "reindex_collection", run_id))
        expect(page.locator("#figures")).to_have_text(f"{ITEMS - 1} of {ITEMS} items, 1 failed")
        expect(page.locator("#failures tbody tr > :first-child")).to_have_text(bad)
        assert cells(page, "failures", 3) == ["on_downloading"]
        expect(page.locator("#failures thead")).to_contain_text("Stage")
        expect(page.locator("#proof")).to_contain_text("Recall@10")
        expect(page.locator("#ranges tbody tr")).to_have_count(3)
        shoot(page, tmp_path, "reindex-dark")
        assert barriers(page) == []
        page.get_by_role("link", name="Replay them").click()
        expect(page.locator("#go")).to_be_visible()
        assert barriers(page) == []
        page.get_by_role("button", name="Replay").click()
        page.wait_for_url("**/page/reindex_collection/**")
        replayed = unquote(page.url.rsplit("/", 1)[1])
        assert replayed != run_id
        assert deployment.wait(client, replayed, MOVES) == "success"
        expect(page.locator("#status")).to_have_text("done")
        expect(page.locator("#figures")).to_have_text(f"{ITEMS} of {ITEMS} items")
        assert wrong == []


def test_list_of_runs_and_airflows_own_pages(deployment: Deployment, finished: str, tmp_path: Path) -> None:
    with browsing(deployment, "builder") as (page, wrong):
        page.wait_for_timeout(1_600)
        page.goto(f"{deployment.url}/reindex/page")
        expect(page.get_by_role("link", name=finished)).to_be_visible()
        shoot(page, tmp_path, "runs")
        assert barriers(page) == []
        page.get_by_role("link", name=finished).click()
        expect(page.locator("#status")).to_have_text("done")
        assert wrong == []
        # As a tab of the run in Airflow's UI.
        page.goto(f"{deployment.url}/dags/{BUILD}/runs/{quote(finished, safe='')}/plugin/reindex")
        frame = page.frame_locator("iframe[title=Reindex]")
        expect(frame.locator("#status")).to_have_text("done")
        page.wait_for_timeout(500)
        shoot(page, tmp_path, "inside-airflow")
        page.goto(f"{deployment.url}/plugin/reindex-runs")
        expect(page.frame_locator("iframe").get_by_role("link", name=finished)).to_be_visible()
        links = page.request.get(f"{deployment.url}{DAG}/dagRuns/{quote(finished)}/taskInstances/aggregate/links")
        assert links.json()["extra_links"]["Progress"] == address(deployment, BUILD, finished)


def test_page_says_why_it_shows_nothing(deployment: Deployment, finished: str) -> None:
    with browsing(deployment, None) as (page, _):
        answer = page.goto(address(deployment, BUILD, finished))
        assert answer is not None
        assert answer.status == 401
        page.get_by_role("link", name="Sign in").click()
        page.fill("[name=username]", "viewer")
        page.fill("[name=password]", deployment.passwords["viewer"])
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#status")).to_have_text("done")
    with browsing(deployment, "mover") as (page, _):
        answer = page.goto(address(deployment, BUILD, finished))
        assert answer is not None
        assert answer.status == 403
        assert finished not in json.dumps(page.content())
        expect(page.locator("p")).to_have_text(f"you have no right to GET runs of the DAG '{BUILD}'")
    with browsing(deployment, "viewer") as (page, _):
        answer = page.goto(address(deployment, BUILD, "<b>none"))
        assert answer is not None
        assert answer.status == 404
        expect(page.locator("p")).to_contain_text("there is no run '<b>none'")
