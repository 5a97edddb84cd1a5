"""Serving HTTP on a loopback socket until a signal says otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from emulator.blobs.app import BlobApp

_HEAD_BYTES_MAX = 512 * 1024
# Longer than any client keeps an idle connection: one that the server closes first may be in use.
_KEEP_ALIVE_SECONDS = 600
_GRACE_SECONDS = 3


class _Protocol(HttpToolsProtocol):
    """Keeps the case of metadata names, as Azure does, and bounds the head of a request."""

    _head_bytes = 0
    _in_head = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if self.headers[-1][0].startswith(b"x-ms-meta-"):
            self.headers[-1] = (name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES_MAX:
                self.send_400_response("The head of the request is too large.")


class _Server(uvicorn.Server):
    """Ends quietly: uvicorn's own would raise the signal again once it has shut down."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


async def serve(app: BlobApp, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client must not be able to say where it comes from
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    app.store.start()
    try:
        await _Server(config).serve(sockets=[listener])
    finally:
        await app.store.close()
