"""Headless Chromium, signed in as one of the deployment's users."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.system.deployment import Deployment

#: It speaks to nobody but the page's server.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Pages poll, and other tests may have all of the processor.
expect.set_options(timeout=300_000)

_RUNNING: list[tuple[Playwright, Browser]] = []


def chromium() -> Browser:
    """This process's browser, started when it is first asked for; `close_chromium` must end it."""
    if _RUNNING and not _RUNNING[-1][1].is_connected():
        close_chromium()
    if not _RUNNING:
        program = shutil.which("chromium")
        assert program, "Chromium is missing: scripts/setup chromium"
        playwright = sync_playwright().start()
        _RUNNING.append((playwright, playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))))
    return _RUNNING[-1][1]


def close_chromium() -> None:
    """End the browser, if there is one: as long as it runs, asyncio takes the main thread for a busy one."""
    while _RUNNING:
        playwright, browser = _RUNNING.pop()
        try:
            browser.close()
        finally:
            playwright.stop()


@contextmanager
def browsing(
    deployment: Deployment, user: str | None, *, theme: Literal["light", "dark"] = "light", width: int = 1300
) -> Iterator[tuple[Page, list[str]]]:
    """A page with cookies and a cache of its own, and what its console complains of or asks other hosts for."""
    context = chromium().new_context(color_scheme=theme, viewport={"width": width, "height": 1000})
    try:
        if user:
            with deployment.client(user) as client:
                token = client.headers["Authorization"].removeprefix("Bearer ")
            context.add_cookies([{"name": "_token", "value": token, "url": deployment.url}])
        page, wrong = context.new_page(), list[str]()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((deployment.url, "data:")) else wrong.append(r.url))
        yield page, wrong
    finally:
        context.close()


def address(deployment: Deployment, dag_id: str, run_id: str) -> str:
    """Where the page of a run is."""
    return f"{deployment.url}/reindex/page/{dag_id}/{quote(run_id, safe='')}"


def barriers(page: Page) -> list[str]:
    """What keeps people with a keyboard, a screen reader or weak eyes from the page, by axe's rules for WCAG 2.1 AA."""
    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = Axe().run(page, options={"runOnly": rules})
    return [
        f"{violation['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


def shoot(page: Page, folder: Path, name: str) -> None:
    """Take a picture of the whole page, for people who want to look."""
    page.screenshot(path=folder / f"{name}.png", full_page=True)
