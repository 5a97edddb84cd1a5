"""Find and serve the web extension of an app, as the Azure Functions Python worker does.

A web extension is a module that is built on azurefunctions-extensions-base, for example
azurefunctions-extensions-http-fastapi. It opens an HTTP server in the app process, to which the
host passes each request. Beside that, the host invokes the function as usual. The header
`x-ms-invocation-id` connects the two: the function receives the request from the server, and the
server sends what the function returns.

Source: `http_v2.py` and `dispatcher.py` of the Azure Functions Python worker 4.34.
"""

import asyncio
import importlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

_log = logging.getLogger("functions.app")
_BASE = "azurefunctions.extensions.base"
_SETTING = "PYTHON_ENABLE_INIT_INDEXING"
_TRUE = frozenset({"1", "true", "t", "yes", "y"})
_FALSE = frozenset({"0", "false", "f", "no", "n"})
_HEADER = "x-ms-invocation-id"
_HOST = "127.0.0.1"

Run = Callable[[], Awaitable[None]]
"""Runs the function of an invocation."""


class MissingHeaderError(ValueError):
    """A request to the extension's server does not have the header that the host adds."""


class HttpServerInitError(Exception):
    """The extension's server cannot be created."""


class _Exchange:
    """One request to the extension's server, and what the function returned for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.request: asyncio.Future[Any] = loop.create_future()
        self.result: asyncio.Future[Any] = loop.create_future()
        self.run: Run | None = None


class WebExtension:
    """The web extension that an app has imported. `find_extension` creates this object.

    If `is_served` is false, the app lacks the setting PYTHON_ENABLE_INIT_INDEXING. As in Azure, its
    HTTP functions then wait for requests that never arrive.
    """

    def __init__(self, base: Any, *, is_served: bool) -> None:
        self.is_served = is_served
        self._base = base
        self._exchanges: dict[str, _Exchange] = {}
        self._server: asyncio.Task[Any] | None = None

    def accepts_request(self, annotation: Any) -> bool:
        """Return whether the parameter of an HTTP trigger may have this annotation."""
        return bool(self._base.RequestTrackerMeta.check_type(annotation))

    def accepts_response(self, annotation: Any) -> bool:
        """Return whether an HTTP function may have this return annotation."""
        return bool(self._base.ResponseTrackerMeta.check_type(annotation))

    def create_server(self) -> tuple[Any, tuple[str, int]]:
        """Create the extension's server, and return it with its address.

        The attribute `web_app` of the server is the app of the extension. Raises
        HttpServerInitError.
        """
        try:
            module = importlib.import_module(self._base.ModuleTrackerMeta.get_module())
            app = module.WebApp()

            async def catch_all(request: Any) -> Any:
                return await self._respond(request)

            # A framework such as FastAPI passes the request to the parameter with this annotation.
            request_type = self._base.RequestTrackerMeta.get_request_type()
            catch_all.__annotations__ = {"request": request_type}
            app.route(catch_all)
            port = _find_free_port()
            return module.WebServer(_HOST, port, app), (_HOST, port)
        except Exception as error:
            raise HttpServerInitError(f"Error initializing HTTP server: {error}") from error

    def start_server(self) -> str:
        """Start the extension's server, and return its address. Raises HttpServerInitError."""
        server, (host, port) = self.create_server()
        self._server = asyncio.get_running_loop().create_task(server.serve())
        return f"{host}:{port}"

    def run_on_arrival(self, invocation_id: str, run: Run) -> None:
        """Run a function when its request arrives, in the task of the request."""
        self._exchange(invocation_id).run = run

    def withdraw_run(self, invocation_id: str) -> bool:
        """Undo `run_on_arrival`; return False if the request has arrived."""
        exchange = self._exchanges.get(invocation_id)
        if exchange is None or exchange.request.done():
            return False
        exchange.run = None
        return True

    async def receive_request(self, invocation_id: str, route: Mapping[str, str]) -> Any:
        """Return the request of an invocation, with the route values of the host."""
        request = await self._exchange(invocation_id).request
        self._base.RequestTrackerMeta.get_synchronizer().sync_route_params(request, route)
        return request

    def set_result(self, invocation_id: str, result: Any) -> None:
        """Make the server send what the function returned, or raise what it raised."""
        exchange = self._exchange(invocation_id)
        if not exchange.result.done():
            exchange.result.set_result(result)

    async def _respond(self, request: Any) -> Any:
        invocation_id = request.headers.get(_HEADER)
        if invocation_id is None:
            raise MissingHeaderError(f"Header {_HEADER} not found")
        exchange = self._exchange(invocation_id)
        exchange.request.set_result(request)
        try:
            if exchange.run is not None:
                await exchange.run()
            result = await exchange.result
        finally:
            del self._exchanges[invocation_id]
        if isinstance(result, Exception):
            raise result
        if result is None:
            raise ValueError(f"No http response found for invocation {invocation_id}")
        return result

    def _exchange(self, invocation_id: str) -> _Exchange:
        found = self._exchanges.get(invocation_id)
        if found is None:
            found = _Exchange(asyncio.get_running_loop())
            self._exchanges[invocation_id] = found
        return found


def find_extension(settings: Mapping[str, str]) -> WebExtension | None:
    """Return the web extension that the loaded app has imported, or None."""
    base: Any = sys.modules.get(_BASE)
    setting = settings.get(_SETTING, "").strip().lower()
    if base is None or setting in _FALSE or not base.HttpV2FeatureChecker.http_v2_enabled():
        return None
    if setting not in _TRUE:
        _log.warning(
            "The app uses a web extension, but the app setting %s is not 1: as in Azure, the HTTP "
            "functions of the app do not respond until their functionTimeout",
            _SETTING,
        )
    return WebExtension(base, is_served=setting in _TRUE)


def _find_free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
