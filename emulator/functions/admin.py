"""The front page and the admin API of the host.

Source: the responses of version 4 of Microsoft's Functions host.
"""

import json
import platform
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from emulator.functions.asgi import (
    BodyTooLarge,
    ClientGone,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
    respond_empty,
    respond_json,
)
from emulator.functions.catalogue import FunctionCatalogue

HOST_VERSION = "4.1040.0.0"
_PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Function App</title></head>
<body><h1>Your Function App is up and running</h1></body></html>
"""
_INPUT_BYTES = 1024 * 1024
RunFunction = Callable[[str, str], Awaitable[None]]


class AdminApplication:
    """The ASGI application for `/`, `/admin/host` and `/admin/functions`.

    As in Core Tools, requests do not need a key.
    """

    def __init__(
        self,
        catalogue: FunctionCatalogue,
        base_url: str,
        is_ready: Callable[[], bool],
        run: RunFunction,
        errors: Sequence[str] = (),
    ) -> None:
        """Create the application; `errors` say why the host cannot run the app."""
        self._functions = {function["name"]: function for function in catalogue.functions}
        self._templates = {route.function: route.template for route in catalogue.routes.routes}
        self._base_url = base_url
        self._is_ready = is_ready
        self._run = run
        self._errors = list(errors)
        self._id = uuid.uuid4().hex
        self._started = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one HTTP request."""
        method, path = scope["method"], scope["path"].rstrip("/").lower()
        if not path:
            headers = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(_PAGE))]
            await respond(send, 200, headers, _PAGE)
        elif method == "GET" and path == "/admin/host/status":
            await respond_json(send, 200, self._status())
        elif method in ("GET", "POST") and path == "/admin/host/ping":
            await respond_empty(send, 200)
        elif method == "GET" and path == "/admin/functions":
            await respond_json(send, 200, [self._describe(f) for f in self._functions.values()])
        elif path.startswith("/admin/functions/"):
            await self._function(scope["path"].rstrip("/").split("/")[3:], scope, receive, send)
        else:
            await respond_empty(send, 404)

    async def _function(self, tail: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        names = {name.lower(): name for name in self._functions}
        name = names.get(tail[0].lower()) if len(tail) == 1 else None
        if name is None:
            await respond_empty(send, 404)
        elif scope["method"] == "GET":
            await respond_json(send, 200, self._describe(self._functions[name]))
        elif scope["method"] == "POST":
            await self._start(name, scope, receive, send)
        else:
            await respond_empty(send, 405)

    async def _start(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, _INPUT_BYTES)
            given = json.loads(body) if body else {}
            text = given.get("input", "") if isinstance(given, dict) else None
        except BodyTooLarge:
            await respond_empty(send, 413)
            return
        except ClientGone:
            return
        except (ValueError, RecursionError):
            text = None
        if not isinstance(text, str):
            await respond_empty(send, 400)
            return
        try:
            await self._run(name, text)
        except LookupError:
            await respond_empty(send, 400)
            return
        await respond_empty(send, 202)

    def _status(self) -> dict[str, Any]:
        state = "Running" if self._is_ready() else "Starting"
        return {
            "id": self._id,
            "state": "Error" if self._errors else state,
            "version": HOST_VERSION,
            "versionDetails": HOST_VERSION,
            "platformVersion": "",
            "instanceId": self._id,
            "computerName": platform.node(),
            "processUptime": int((time.monotonic() - self._started) * 1000),
            "functionAppContentEditingState": "NotAllowed",
            "extensionBundle": None,
            **({"errors": self._errors} if self._errors else {}),
        }

    def _describe(self, function: dict[str, Any]) -> dict[str, Any]:
        name = function["name"]
        template = self._templates.get(name)
        url = None if template is None else f"{self._base_url}/{template}"
        return {
            "name": name,
            "href": f"{self._base_url}/admin/functions/{name}",
            "invoke_url_template": url,
            "language": "python",
            "config": {"name": name, "language": "python", "bindings": function["bindings"]},
            "isDisabled": False,
            "isDirect": False,
            "isProxy": False,
        }
