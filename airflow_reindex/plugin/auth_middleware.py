"""ASGI middleware that rejects unauthenticated requests before routing."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
from fastapi import HTTPException, Request

from airflow_reindex.plugin.error_responses import refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """
    ASGI middleware that lets only requests of Airflow users through.

    Routes check permissions themselves. But that happens only after path, method and body were found valid, and
    strangers should not learn which are.

    :param open_to_keys: methods and paths of routes that authenticate in another way.
    """

    def __init__(self, app: ASGIApp, *, open_to_keys: Collection[tuple[str, str]]) -> None:
        self._app, self._open = app, frozenset(open_to_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_open(scope):
            request = Request(scope)
            try:
                await get_user(request, None, await bearer_scheme(request))
            except HTTPException as error:
                await refusal(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return (scope["method"], path) in self._open
