"""All routes of the plugin: who gets in, how much he may send, and what happens to nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from airflow_reindex.plugin.app import create_app, create_task_app
from sandbox.catalog.catalog import CatalogSpec
from sandbox.fixtures import CatalogFactory
from tests.support.samples import examples
from tests.system.api import trigger
from tests.system.deployment import Deployment

BUILD, MOVE = "build_director_index", "reindex_collection"
#: Routes of Qserv's contract: their requests may have a key instead of a token.
BY_KEY = ("/ingest/index/secondary", "/meta/version")
MOUNTS = (("/reindex", create_app), ("/api/v1/internal", create_task_app))


def routes() -> list[tuple[str, str]]:
    """Method and path of each route that is mounted; with made-up values in the path."""
    values = {"dag_id": BUILD, "run_id": "some", "name": "run.js"}
    found = [
        (method, prefix + route.path.format(**values))  # type: ignore[attr-defined]
        for prefix, factory in MOUNTS
        for route in factory().routes
        for method in route.methods  # type: ignore[attr-defined]
    ]
    return sorted(set(found))


def test_every_route_is_known() -> None:
    assert len(routes()) > 20


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}])
def test_nobody_gets_in(deployment: Deployment, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=deployment.url, headers=headers, timeout=300) as nobody:
        for method, path in routes():
            answer = nobody.request(method, path)
            assert answer.status_code in (401, 403), (method, path, answer.status_code)
            assert len(answer.content) < 500, (method, path, answer.text)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"id": 5}', b"\xff\x00", b" " * 100_000],
    ids=["none", "cut", "list", "wrong", "binary", "large"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "SEARCH"])
def test_strangers_learn_nothing_of_the_routes(deployment: Deployment, method: str, content: bytes) -> None:
    """Not which paths there are, nor which methods they take, nor what is wrong with a body."""
    paths = {path for _, path in routes()} | {"/reindex/none", "/reindex/", "/api/v1/internal/none"}
    with httpx.Client(base_url=deployment.url, timeout=300) as nobody:
        for path in sorted(paths):
            answer = nobody.request(method, path, content=content, headers={"Content-Type": "application/json"})
            # A key may be in the body there: one that is not read has none.
            codes = (401, 413) if len(content) > 65_536 and path.endswith(BY_KEY) else (401,)
            assert answer.status_code in codes, (path, answer.status_code)


@pytest.fixture(scope="module")
def run_id(deployment: Deployment, catalog: CatalogFactory) -> str:
    made = catalog(CatalogSpec(rows=2_000, chunks=10))
    with deployment.client("admin") as client:
        found = trigger(client, database=made.spec.database, director_table="Object", rebuild=1)
        assert deployment.wait(client, found) == "success"
    return found


def test_a_right_on_one_dag_does_not_open_the_other(deployment: Deployment, run_id: str) -> None:
    paths = [f"/reindex/{part}/{BUILD}/{run_id}" for part in ("page", "run", "report", "index", "replay")]
    paths += [f"/reindex/run/{BUILD}/{run_id}/{part}" for part in ("chunks", "ranges", "failures", "failures.csv")]
    tasks = "/api/v1/internal/reindex-tasks"
    with deployment.client("builder") as builder, deployment.client("mover") as mover:
        for path in paths:
            assert builder.get(path).status_code == 200, path
            assert mover.get(path).status_code == 403, path
        assert [run["run_id"] for run in builder.get("/reindex/runs").json()["runs"]] == [run_id]
        assert mover.get("/reindex/runs").json() == {"total": 0, "dags": [MOVE], "runs": []}
        assert mover.get("/reindex/runs", params={"dag_id": BUILD}).json()["runs"] == []
        assert mover.post("/reindex/ingest/index/secondary", json={}).status_code == 403
        assert mover.get("/reindex/meta/version").status_code == 403
        assert mover.get(f"{tasks}/list").status_code == 200
        body = {
            "source": {"embedding_model_id": "a"}, "dest": {"embedding_model_id": "b"},
            "deploy_as_blue": None, "wait_on_conflict": None,
        }  # fmt: skip
        for method, path in (
            ("GET", "list"),
            ("GET", "info?task_id=x"),
            ("PUT", "restart?task_id=x"),
            ("PUT", "cancel?task_id=x"),
        ):
            assert builder.request(method, f"{tasks}/{path}").status_code == 403, path
        assert builder.post(f"{tasks}/run", json=body).status_code == 403


def test_who_may_look_may_not_run(deployment: Deployment, run_id: str) -> None:
    with deployment.client("viewer") as viewer:
        assert viewer.get(f"/reindex/run/{BUILD}/{run_id}").status_code == 200
        assert viewer.post("/reindex/ingest/index/secondary", json={}).status_code == 403
        assert viewer.put("/api/v1/internal/reindex-tasks/cancel?task_id=x").status_code == 403


def test_large_bodies_are_refused(deployment: Deployment) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    with deployment.client("admin") as client:
        for content in (b" " * 100_000, pieces()):
            answer = client.post(
                "/reindex/ingest/index/secondary", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 413
            assert "api_body_bytes" in answer.json()["detail"]


def test_headers_keep_other_sites_out(deployment: Deployment, run_id: str) -> None:
    with deployment.client("viewer") as viewer:
        headers = viewer.get(f"/reindex/page/{BUILD}/{run_id}").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["static/..%2f__init__.py", "static/__init__.py", "run/x/..%2f..%2fetc", "static/none.js"]
)
def test_nothing_else_can_be_read(deployment: Deployment, path: str) -> None:
    with deployment.client("admin") as client:
        assert client.get(f"/reindex/{path}").status_code == 404


OPERATIONS = [
    pytest.param(prefix, found.ok(), id=f"{found.ok().label} at {prefix}")  # type: ignore[union-attr]
    for prefix, factory in MOUNTS
    for found in schemathesis.openapi.from_dict(factory().openapi()).get_all_operations()
]


@pytest.fixture
def paused(deployment: Deployment) -> Iterator[dict[str, str]]:
    """Headers of a user who may do anything, while neither DAG runs anything."""
    with deployment.client("admin") as client:
        for dag in (BUILD, MOVE):
            client.patch(f"/api/v2/dags/{dag}", json={"is_paused": True}).raise_for_status()
        try:
            yield {"Authorization": client.headers["Authorization"]}
        finally:
            for dag in (BUILD, MOVE):
                client.patch(f"/api/v2/dags/{dag}", json={"is_paused": False}).raise_for_status()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize(("prefix", "operation"), OPERATIONS)
def test_made_up_requests(
    deployment: Deployment, paused: dict[str, str], prefix: str, operation: Any, mode: GenerationMode
) -> None:
    """Whatever the description allows, and what it does not, is answered as the description says."""
    # By Qserv's contract, what is wrong with a request is said with status 200.
    # Nor does a schema say that two models must differ, and that a paused DAG takes nothing.
    excluded = [negative_data_rejection] if operation.path in BY_KEY else []
    excluded += [positive_data_acceptance] if operation.path.endswith("/run") else []
    try:
        cases = operation.as_strategy(generation_mode=mode)
    except schemathesis.errors.LoaderError:
        pytest.skip("nothing can be wrong with it")

    @examples(12)
    @given(case=cases)
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=deployment.url + prefix, headers=paused, excluded_checks=excluded)

    ask()
