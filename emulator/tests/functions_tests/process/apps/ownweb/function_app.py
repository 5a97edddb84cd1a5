"""One function that passes every request to an ASGI app, through an extension of its own."""

from typing import Any

import azure.functions as func
from own_extension import WebServer  # type: ignore[import-not-found]  # in the app's folder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["WebServer", "app"]
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


async def docs(request: Request) -> Response:
    response = PlainTextResponse("our docs")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


class Echo:
    """Send each piece of the request's body back when it arrives."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more_body = True
        while more_body:
            message = await receive()
            more_body = message["more_body"]
            await send({**message, "type": "http.response.body"})


inner = Starlette(routes=[Route("/docs", docs), Route("/echo", Echo(), methods=["POST"])])


class Whole(Response):
    """A response that is the inner app's response."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for name in ("app", "router", "endpoint", "path_params"):
            scope.pop(name, None)
        await inner(scope, receive, send)


@app.route(route="{*path}", methods=["GET", "HEAD", "POST"])
async def http(req: Request) -> Response:
    return Whole()
