"""Call the ASGI app of a web extension in the process of the host.

The app gets what it would get from a server of its own, to which the host forwards the request.
There is no such server here: what the extension sets for it, for example the header `server`, and
its lifespan events have no effect.
"""

import asyncio
import gc
import inspect
import logging
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any
from urllib.parse import unquote

from emulator.functions.asgi import Application, Scope
from emulator.functions.errors import AppLoadError
from emulator.functions.exchange import (
    SILENCE_SECONDS,
    ActivityTimer,
    Exchange,
    ForwardedBodyTooLarge,
    ForwardError,
)
from emulator.functions.forwarding import (
    encode_path,
    request_headers,
    response_headers,
)

_log = logging.getLogger("functions.app")
_ERROR_BODY = b"Internal Server Error"
_ERROR_HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_ERROR_BODY)),
]
_Message = MutableMapping[str, Any]
_StartTask = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class WebCaller:
    """Passes requests to an ASGI app in the process of the host, which implements Forwarder.

    The constructor raises AppLoadError if the extension has another kind of app. `start_task`
    starts a task that ends with the Function App.
    """

    def __init__(
        self,
        application: Any,
        address: tuple[str, int],
        start_task: _StartTask,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        call = application if inspect.isfunction(application) else type(application).__call__
        if not inspect.iscoroutinefunction(call):
            raise AppLoadError(
                "the web extension has no ASGI app, so that the app needs a process of its own: "
                "use --isolated"
            )
        self._application: Application = application
        self._address = address
        self._start_task = start_task
        self._silence_seconds = silence_seconds

    async def forward(
        self, exchange: Exchange, invocation_id: str, is_over: Callable[[], bool]
    ) -> None:
        """Pass on a request, and the response to the client. Raises ForwardError."""
        call = _Call(exchange, self._silence_seconds)
        task = self._start_task(call.run(self._application, self._scope(exchange, invocation_id)))
        try:
            await call.ended
        except asyncio.CancelledError:
            task.add_done_callback(_close_generators)
            task.cancel()
            raise
        finally:
            call.close()

    def _scope(self, exchange: Exchange, invocation_id: str) -> Scope:
        scope = exchange.scope
        authority = f"{self._address[0]}:{self._address[1]}".encode()
        raw_path = encode_path(scope["raw_path"])
        client = scope.get("client")
        return {
            "type": "http",
            "asgi": scope["asgi"],
            "http_version": "1.1",
            "method": scope["method"],
            "scheme": scope["scheme"],
            "root_path": "",
            "path": unquote(raw_path.decode()),
            "raw_path": raw_path,
            "query_string": scope["query_string"],
            "headers": request_headers(scope, authority, invocation_id),
            "server": self._address,
            # uvicorn takes the address from X-Forwarded-For, which has no port.
            "client": None if client is None else (client[0], 0),
            "state": {},
        }


def _close_generators(cancelled: asyncio.Task[None]) -> None:
    """Close the generators of a cancelled response.

    A generator whose chunk was being sent is closed only when it is freed, and the exception is in
    a cycle of references with it.
    """
    cancelled.get_loop().call_soon(gc.collect)


class _Call:
    """One call of the ASGI app. `ended` is done when the response has ended."""

    def __init__(self, exchange: Exchange, silence_seconds: float) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exchange = exchange
        self._size_bytes = 0
        self._is_client_gone = False
        self._timer = ActivityTimer(silence_seconds, self._on_silence)

    async def run(self, application: Application, scope: Scope) -> None:
        """Call the app, and respond with 500 as uvicorn does if it raises an exception."""
        self._timer.extend()
        try:
            await application(scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._fail(ForwardError("ResponseBodyDestination", 502))
            raise
        except BaseException:  # noqa: BLE001 - user code: it may even exit
            _log.exception("Exception in ASGI application")
        if self.ended.done():
            return
        if not self._exchange.is_started and not self._is_client_gone:
            await self._exchange.start(500, _ERROR_HEADERS)
            await self._exchange.write(_ERROR_BODY, more_body=False)
            self._finish()
        else:
            self._fail(ForwardError("ResponseBodyDestination", 502))

    def close(self) -> None:
        """Let the app receive and send nothing more."""
        self._timer.stop()
        self.ended.cancel()

    async def _receive(self) -> _Message:
        if not self.ended.done():
            message = await self._exchange.receive()
            if not self.ended.done():
                self._timer.extend()
                if message["type"] != "http.request":
                    self._is_client_gone = True
                    return message
                self._size_bytes += len(message.get("body", b""))
                if self._size_bytes <= self._exchange.max_body_bytes:
                    return message
                self._fail(ForwardedBodyTooLarge())
        return {"type": "http.disconnect"}

    async def _send(self, message: _Message) -> None:
        exchange = self._exchange
        self._is_client_gone = self._is_client_gone or exchange.is_client_gone
        if self.ended.done() or self._is_client_gone:
            # Nothing makes the app wait any more, but it must not keep the event loop for itself.
            await asyncio.sleep(0)
        if self.ended.done():
            return
        if message["type"] == "http.response.start":
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message["headers"]]
            await exchange.start(message["status"], response_headers(headers))
        elif message["type"] == "http.response.body":
            is_last = not message.get("more_body", False)
            await exchange.write(message.get("body", b""), more_body=not is_last)
            if is_last:
                self._finish()
                return
        if not self.ended.done():
            self._timer.extend()

    def _finish(self) -> None:
        if self._is_client_gone:
            self._fail(ForwardError("RequestCanceled", 400))
        elif not self.ended.done():
            self.ended.set_result(None)

    def _on_silence(self) -> None:
        self._fail(ForwardError("RequestTimedOut", 504))

    def _fail(self, error: ForwardError) -> None:
        if self._is_client_gone:
            error = ForwardError("RequestCanceled", 400)
        if not self.ended.done():
            self.ended.set_exception(error)
