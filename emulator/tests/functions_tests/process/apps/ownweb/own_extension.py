"""A web extension on Microsoft's public base, as its documentation describes it."""

# mypy: disable-error-code="misc, metaclass"
# The base has no annotations.

from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from azurefunctions.extensions import base
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse


class RequestSynchronizer(base.RequestSynchronizer):
    def sync_route_params(self, request: StarletteRequest, path_params: dict[str, str]) -> None:
        request.path_params.clear()
        request.path_params.update(path_params)


class Request(metaclass=base.RequestTrackerMeta):
    request_type = StarletteRequest
    synchronizer = RequestSynchronizer()


class Response(metaclass=base.ResponseTrackerMeta):
    label = base.ResponseLabels.STANDARD
    response_type = StarletteResponse


class WebApp(base.WebApp):
    def route(self, func: Callable[[StarletteRequest], Awaitable[Any]]) -> None:
        self._catch_all = func

    def get_app(self) -> "WebApp":
        return self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("path_params", {})
        response = await self._catch_all(StarletteRequest(scope, receive))
        await response(scope, receive, send)


class WebServer(base.WebServer):
    async def serve(self) -> None:
        config = uvicorn.Config(
            self.web_app,
            host=self.hostname,
            port=self.port,
            lifespan="off",
            server_header=False,
            access_log=False,
            log_config=None,
        )
        await uvicorn.Server(config).serve()
