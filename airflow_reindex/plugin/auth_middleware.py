"""Nobody gets past it without being a user of Airflow: whatever is asked for, however malformed the request is."""

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
    An ASGI middleware that lets through requests of Airflow's users alone.

    The routes ask for rights themselves. But a route is asked only once its path, its method and the form of its body
    are right, and strangers need not learn which are.

    :param app: the application behind it.
    :param open_to_keys: methods and paths of routes that know another way to tell who sends a request.
    """

    def __init__(self, app: ASGIApp, *, open_to_keys: Collection[tuple[str, str]]) -> None:
        self._app, self._open = app, frozenset(open_to_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Handle a request.

        :param scope: as ASGI defines it.
        :param receive: as ASGI defines it.
        :param send: as ASGI defines it.
        """
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
