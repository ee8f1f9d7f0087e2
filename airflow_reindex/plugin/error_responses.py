"""Error responses: JSON for programs, a short HTML page for browsers."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from airflow_reindex.operators.links import root

_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    "<title>airflow-reindex</title><p>{why}</p>{more}</html>"
)


def refusal(request: Request, error: HTTPException) -> Response:
    """Turn an HTTP error into a response."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    more = ""
    if error.status_code == 401:
        # Airflow redirects from there to the login of its auth manager, and back.
        target = f"{root()}/api/v2/auth/login?next={quote(str(request.url), safe='')}"
        more = f'<p><a target="_top" href="{target}">Sign in</a></p>'
    return HTMLResponse(_PAGE.format(why=escape(str(error.detail)), more=more), error.status_code, error.headers)
