"""How much a client may ask: requests a minute, and bytes of a body however they come."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI, Request

from airflow_reindex.plugin.limits import HEADERS, Limits


def application(requests_a_minute: int = 1000, body_bytes: int = 100) -> FastAPI:
    app = FastAPI()
    app.add_middleware(Limits, requests_a_minute=requests_a_minute, body_bytes=body_bytes)

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


async def post(app: FastAPI, **content: object) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/echo", **content)  # type: ignore[arg-type]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_body_of_the_largest_size() -> None:
    answer = await post(application(), content=b"x" * 100)
    assert (answer.status_code, answer.json()) == (200, 100)
    assert all(answer.headers[name] == value for name, value in HEADERS.items())


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{}, {"Content-Length": "5"}, {"Content-Length": "many"}])
async def test_larger_bodies_are_refused(headers: dict[str, str]) -> None:
    """Also those that come in pieces, and those that lie about their size."""

    async def pieces() -> object:
        for _ in range(20):
            yield b"x" * 10

    answer = await post(application(), content=pieces(), headers=headers)
    assert answer.status_code == 413
    assert "api_body_bytes" in answer.json()["detail"]


@pytest.mark.anyio
async def test_requests_a_minute() -> None:
    app = application(requests_a_minute=3)
    codes = [(await post(app, content=b"")).status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
