"""Reindex tasks as EmbeddingStudio's clients know them; behind them a real deployment and a real collection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from sandbox.collection.collection_data import SOURCE_MODEL
from tests.support.wait import wait_until
from tests.system.api import clear, events, instances
from tests.system.conftest import ITEMS, without_text
from tests.system.deployment import Deployment

TASKS = "/api/v1/internal/reindex-tasks"
MOVES = "/api/v2/dags/reindex_collection"
FIELDS = {
    "id", "status", "created_at", "updated_at", "progress", "detail", "count", "total", "children", "failed_items",
    "deploy_as_blue", "wait_on_conflict",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(deployment: Deployment, packages: psycopg.Connection[Any]) -> Iterator[httpx.Client]:
    """A client of the user who may run this DAG alone."""
    with deployment.client("mover") as found:
        yield found


def move(client: httpx.Client, task_id: str | None = None, dest: str = "words_128", **params: Any) -> dict[str, Any]:
    body = {
        "source": {"embedding_model_id": SOURCE_MODEL},
        "dest": {"embedding_model_id": dest},
        "deploy_as_blue": None,
        "wait_on_conflict": False,
        "params": {"batch_size": 20, **params},
        **({"id": task_id} if task_id else {}),
    }
    answer = client.post(f"{TASKS}/run", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found.keys() == FIELDS
    return found


def wait(client: httpx.Client, task_id: str, wanted: tuple[str, ...], seconds: float = 600) -> dict[str, Any]:
    """Wait until a task is in one of some states; as it is then."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"{TASKS}/info", params={"task_id": task_id}).raise_for_status().json()
        return found if found["status"] in wanted else None

    found = wait_until(look, seconds, pause=0.2)
    assert found is not None
    return found


def test_task_fails_is_mended_and_restarted(client: httpx.Client, packages: psycopg.Connection[Any]) -> None:
    with without_text(packages) as bad:
        begun = move(client, "65f0c0ffee65f0c0ffee65f0", max_failed=0)
        ended = wait(client, begun["id"], ("done", "failed"))
    assert begun["id"] == "65f0c0ffee65f0c0ffee65f0"
    assert begun["status"] in ("pending", "processing")
    assert ended["status"] == "failed", ended
    assert (ended["total"], ended["progress"]) == (ITEMS, 1.0)
    assert "items failed" in ended["detail"]
    assert len(ended["children"]) == ITEMS // 20
    # What was not begun after the limit was reached is listed, too.
    assert ended["count"] == ITEMS - len(ended["failed_items"])
    (item,) = [item for item in ended["failed_items"] if item["failure_stage"] != "other"]
    assert (item["object_id"], item["failure_stage"]) == (bad, "on_downloading"), item
    assert item["detail"]
    # The same id again is the same task.
    assert move(client, begun["id"], max_failed=0)["status"] == "failed"

    before = instances(client, begun["id"], MOVES)
    done = {key for key, ti in before.items() if key[0] == "reindex" and ti["state"] == "success"}
    assert done
    ended = restart(client, begun["id"], "done", "failed")
    assert (ended["status"], ended["count"], ended["failed_items"]) == ("done", ITEMS, []), ended
    after = instances(client, begun["id"], MOVES)
    again = {key for key in done if after[key]["try_number"] > before[key]["try_number"]}
    assert again == {("reindex", 0)}, "only the window with the failed item is done again"


def restart(client: httpx.Client, task_id: str, *wanted: str) -> dict[str, Any]:
    """Restart a task; as it is when it has ended."""
    begun = client.put(f"{TASKS}/restart", params={"task_id": task_id}).raise_for_status().json()
    assert begun["status"] in ("pending", "processing"), begun
    return wait(client, task_id, wanted)


ENDS = ("done", "failed", "refused", "canceled")


def test_a_done_task_with_failed_items_is_restarted(client: httpx.Client, packages: psycopg.Connection[Any]) -> None:
    """It has given its claim back. What it had said before is not said again of a life that failed."""
    with without_text(packages) as bad:
        task = move(client)["id"]
        ended = wait(client, task, ENDS)
        assert (ended["status"], ended["count"]) == ("done", ITEMS - 1)
        assert [item["object_id"] for item in ended["failed_items"]] == [bad]
        assert events(client, task) == 1
        packages.execute(
            "INSERT INTO airflow_reindex.claims SELECT 'public', 'words_128', 'public', 'words_64', 'theirs', "
            "'elsewhere', 'dag', 'another', 'host', '', clock_timestamp() + interval '1 hour'"
        )
        packages.commit()
        ended = restart(client, task, *ENDS)
        assert ended["status"] == "refused", ended
        assert "'words_128' is being built by run 'another'" in ended["detail"]
        assert (ended["failed_items"], events(client, task)) == ([], 1)
        packages.execute("DELETE FROM airflow_reindex.claims WHERE token = 'theirs'")
        packages.commit()
        ended = restart(client, task, *ENDS)
        assert (ended["status"], ended["count"]) == ("done", ITEMS - 1), ended
        assert [item["object_id"] for item in ended["failed_items"]] == [bad], "it was tried again, and fails again"
    assert events(client, task) == 2
    # In Airflow's UI a person may clear a window alone: its plan and its claim are gone.
    clear(client, task, "reindex", 0, MOVES)
    ended = wait(client, task, ENDS)
    assert ended["status"] == "failed", ended
    assert "another run took over" not in ended["detail"]
    assert "clear this one from its task 'plan' on" in ended["detail"]
    assert events(client, task) == 2
    ended = restart(client, task, *ENDS)
    assert (ended["status"], ended["count"], ended["failed_items"]) == ("done", ITEMS, []), ended
    assert events(client, task) == 3


def test_cancel_stops_children_and_restart_goes_on(client: httpx.Client) -> None:
    begun = move(client, dest="words_256", batch_size=5, max_subtasks=1)
    assert len(begun["id"]) == 24

    def moved() -> list[int]:
        found = instances(client, begun["id"], MOVES)
        return [index for (task, index), ti in found.items() if task == "reindex" and ti["state"] == "success"]

    wait_until(moved, 600, pause=0.1)
    canceled = client.put(f"{TASKS}/cancel", params={"task_id": begun["id"]}).raise_for_status().json()
    assert canceled["status"] == "canceled"
    assert "canceled by mover" in canceled["detail"]
    found = instances(client, begun["id"], MOVES)
    assert {ti["state"] for ti in found.values()} <= {"success", "failed", "skipped", "removed"}
    listed = client.get(f"{TASKS}/list", params={"status": "canceled"}).raise_for_status().json()
    assert [task["id"] for task in listed] == [begun["id"]]
    again = client.put(f"{TASKS}/cancel", params={"task_id": begun["id"]}).raise_for_status().json()
    assert again["status"] == "canceled", "again is no error, and changes nothing"

    client.put(f"{TASKS}/restart", params={"task_id": begun["id"]}).raise_for_status()
    ended = wait(client, begun["id"], ("done", "failed", "canceled"))
    assert (ended["status"], ended["count"]) == ("done", ITEMS), ended["detail"]


def test_list_and_unknown_tasks(client: httpx.Client) -> None:
    listed = client.get(f"{TASKS}/list", params={"limit": 1}).raise_for_status().json()
    assert len(listed) == 1
    assert listed[0].keys() == FIELDS
    for verb, path in (("GET", "info"), ("PUT", "restart"), ("PUT", "cancel")):
        answer = client.request(verb, f"{TASKS}/{path}", params={"task_id": "never"})
        assert answer.status_code == 404
        assert "never" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"deploy_as_blue": ...}, 422, "deploy_as_blue"),
        ({"source": {}}, 422, "embedding_model_id"),
        ({"id": "../../etc"}, 422, "id"),
        ({"params": {"tables": "x"}}, 400, "has no params tables"),
        ({"tables": "x"}, 400, "has no params tables"),
        ({"params": {"max_failed": 1.5}}, 400, "max_failed must be"),
        ({"dest": {"embedding_model_id": SOURCE_MODEL}}, 400, SOURCE_MODEL),
    ],
)
def test_bad_tasks_start_nothing(client: httpx.Client, change: dict[str, Any], code: int, said: str) -> None:
    body: dict[str, Any] = {
        "source": {"embedding_model_id": SOURCE_MODEL},
        "dest": {"embedding_model_id": "words_128"},
        "deploy_as_blue": False,
        "wait_on_conflict": False,
        **change,
    }
    answer = client.post(f"{TASKS}/run", json={name: value for name, value in body.items() if value is not ...})
    assert answer.status_code == code, answer.text
    assert said in answer.text


def test_same_routes_below_the_prefix(client: httpx.Client) -> None:
    assert client.get(f"/reindex{TASKS}/list").raise_for_status().json() == client.get(f"{TASKS}/list").json()
