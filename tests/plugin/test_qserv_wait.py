"""A client of Qserv's contract that waits for its build, while what is to be read of the build cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from airflow_reindex.plugin.contracts import qserv
from airflow_reindex.plugin.contracts.qserv_protocol import envelope, read_index_call

CALL = read_index_call({"database": "d", "director_table": "t", "version": 55}, None, 0)
AWAY = OperationalError("SELECT", {}, Exception("the server has gone away"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the run follow each other at once."""
    monkeypatch.setattr(qserv, "LOOK_SECONDS", 0.001)


def answered(monkeypatch: pytest.MonkeyPatch, looks: Iterator[Any]) -> None:
    """Let each look at the run see, or raise, the next one of these."""

    def outcome(*_: object) -> Any:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(qserv, "outcome", outcome)


async def whole_answer() -> dict[str, Any]:
    text = b"".join([piece async for piece in qserv._answer(CALL, "qserv__1")])
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.anyio
async def test_a_moment_without_the_database_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, iter([None, AWAY, OSError("staging"), None, envelope()]))
    assert await whole_answer() == envelope()


@pytest.mark.anyio
async def test_for_good_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qserv, "DATABASE_WAIT_SECONDS", 0.05)
    answered(monkeypatch, iter(lambda: AWAY, None))
    found = await whole_answer()
    assert found["success"] == 0
    assert "run 'qserv__1' could not be read" in found["error"]
    assert "joins a build that goes on" in found["error"]


@pytest.mark.anyio
async def test_white_space_keeps_the_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qserv, "ALIVE_SECONDS", 0.01)
    answered(monkeypatch, iter([None] * 200 + [envelope()]))
    pieces = [piece async for piece in qserv._answer(CALL, "qserv__1")]
    assert len(pieces) > 3
    assert all(piece == b"\n" for piece in pieces[:-1])
